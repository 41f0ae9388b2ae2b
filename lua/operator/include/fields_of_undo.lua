-- fields_of_undo: return the fields of the event of an undo, with the before-image of each key.
-- in:  leave_slot
-- out: fields_of_undo
local function fields_of_undo(actor, undo, words, first, last)
  local names, held = {}, {}
  for i = first, last, 7 do
    local key = words[i]
    names[#names + 1] = #key .. ':' .. key .. ','
    held[#held + 1], held[#held + 2] = 'before', key
    leave_slot()
    local kind, expires = call('TYPE', key).ok, string.format('%.0f', call('PEXPIRETIME', key))
    local kind_of_image, image = 'value', ''
    if kind == 'none' then
      expires = 'absent'
    elseif kind == 'string' then
      image = call('GET', key)
    else
      kind_of_image, image = 'image', call('DUMP', key)
    end
    held[#held + 1], held[#held + 2] = 'expires', expires
    held[#held + 1], held[#held + 2] = kind_of_image, image
  end
  leave_slot()
  local fields = {
    'token', '-', 'policy', '- 0', 'correlation', undo, 'actor', actor,
    'UNDO:' .. #names, table.concat(names),
  }
  for i = 1, #held do fields[#fields + 1] = held[i] end
  return fields
end
