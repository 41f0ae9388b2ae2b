-- write_ring: write the slots that a batch used. They end before the head and may wrap around.
-- in:  taken, head, ring, now_us
-- out: from
local slots = math.min(taken, {{ limit.slot.capacity }})
local from = (head - slots) % {{ limit.slot.capacity }}
local unwrapped = math.min(slots, {{ limit.slot.capacity }} - from)
if slots > 0 then
  call('SETRANGE', ring, {{ offset }} + from * 8, string.rep(struct.pack('<d', now_us), unwrapped))
end
if slots > unwrapped then
  call('SETRANGE', ring, {{ offset }}, string.rep(struct.pack('<d', now_us), slots - unwrapped))
end
