-- newest_calls: return for each ring of a state the place of its newest call and that call, packed.
-- in:  pack, unpack_struct
-- out: newest_calls
local function newest_calls(state, rings)
  local marks = {}
  for at = 1, #rings, 10 do
    local index, offset, capacity = unpack_struct('<HII', rings, at)
    -- A damaged record may have any bytes.
    local head = #state >= index * 8 + 8 and unpack_struct('<d', state, index * 8 + 1) or 0
    if not (head >= 0 and head < capacity and head % 1 == 0) then head = 0 end
    local newest_at = offset + (head - 1) % capacity * 8
    local slot = string.sub(state, newest_at + 1, newest_at + 8)
    marks[#marks + 1] = pack('<Ic8', newest_at, slot .. string.rep('\0', 8 - #slot))
  end
  return table.concat(marks)
end
