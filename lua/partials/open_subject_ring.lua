-- The ring carries its own size: after a reload with another limit it is put in order
-- again and its newest calls are kept.
local header = call('GETRANGE', subject, 0, {{ subject_ring_offset - 1 }})
if header ~= '' then
  local capacity
  head_n, capacity = unpack_struct('<dd', header)
  if capacity ~= {{ limit.slot.capacity }} then
    local ring = string.sub(call('GET', subject), {{ subject_ring_offset + 1 }})
    ring = ring .. string.rep('\0', capacity * 8 - #ring)
    ring = string.sub(ring, head_n * 8 + 1) .. string.sub(ring, 1, head_n * 8)
    ring = string.rep('\0', {{ limit.slot.capacity * 8 }} - #ring) .. string.sub(ring, -{{ limit.slot.capacity * 8 }})
    head_n = 0
    call('SET', subject, pack('<dd', 0, {{ limit.slot.capacity }}) .. ring, 'KEEPTTL')
  end
end
