-- moved_ring: return the newest calls of another ring as a ring whose head is 0, '' if none.
-- in:  none
-- out: moved_ring
--
-- A corrupt ring stays corrupt: no time is as late as 2^53.
local function moved_ring(capacity, state, index, offset, held)
  local head = struct.unpack('<d', state, index * 8 + 1)
  if not (head >= 0 and head < held and head % 1 == 0) then
    return string.rep(struct.pack('<d', 9007199254740992), capacity)
  end
  local ring = string.sub(state, offset + 1, offset + held * 8)
  ring = ring .. string.rep('\0', held * 8 - #ring)
  -- Oldest first; slots that were never used come before them.
  ring = string.sub(string.sub(ring, head * 8 + 1) .. string.sub(ring, 1, head * 8), -capacity * 8)
  if ring == string.rep('\0', #ring) then return '' end
  return string.rep('\0', capacity * 8 - #ring) .. ring
end
