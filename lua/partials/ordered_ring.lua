-- The calls that a ring remembers, oldest first, as packed doubles; unused slots come first.
local function ordered_ring(state, from)
  local head = struct.unpack('<d', state, from.index * 8 + 1)
  local ring = string.sub(state, from.offset + 1, from.offset + from.capacity * 8)
  ring = ring .. string.rep('\0', from.capacity * 8 - #ring)
  return string.sub(ring, head * 8 + 1) .. string.sub(ring, 1, head * 8)
end
