-- is_unmoved: return whether a state is the same as when its numbers and newest calls were read.
-- in:  unpack_struct
-- out: is_unmoved
--
-- `header` holds the numbers and `marks` the newest call of each ring. The head of a ring alone is
-- not enough, because the ring may have gone round.
local function is_unmoved(key, header, marks)
  if header == '' or call('GETRANGE', key, 0, #header - 1) ~= header then return false end
  for at = 1, #marks, 12 do
    local offset, newest = unpack_struct('<Ic8', marks, at)
    local slot = call('GETRANGE', key, offset, offset + 7)
    if slot .. string.rep('\0', 8 - #slot) ~= newest then return false end
  end
  return true
end
