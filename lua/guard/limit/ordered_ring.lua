-- The calls that a ring remembers, oldest first, as packed doubles; unused slots come first. Nil of
-- a ring whose head is no slot: a fenced agent may write any bytes there.
local function ordered_ring(state, from)
  local head = struct.unpack('<d', state, from.index * 8 + 1)
  if not (head >= 0 and head < from.capacity and head % 1 == 0) then return end
  local ring = string.sub(state, from.offset + 1, from.offset + from.capacity * 8)
  ring = ring .. string.rep('\0', from.capacity * 8 - #ring)
  return string.sub(ring, head * 8 + 1) .. string.sub(ring, 1, head * 8)
end
