-- An undo as an event that can be undone: whose it is, and what each key held before it.
local function fields_of_undo(words, first, last)
  local names, held = {}, {}
  for i = first, last, 5 do
    local key = words[i]
    names[#names + 1] = #key .. ':' .. key .. ','
    held[#held + 1], held[#held + 2] = 'before', key
    local image = call('DUMP', key)
    if image then
      held[#held + 1], held[#held + 2] = 'expires', string.format('%.0f', call('PEXPIRETIME', key))
      held[#held + 1], held[#held + 2] = 'image', image
    end
  end
  local fields = {
    'token', '-', 'op', 'UNDO', 'cost', '0', 'keys', table.concat(names), 'correlation', words[2],
    'policy', '-', 'actor', words[1],
  }
  for i = 1, #held do fields[#fields + 1] = held[i] end
  return fields
end
