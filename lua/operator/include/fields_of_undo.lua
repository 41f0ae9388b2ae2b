-- fields_of_undo: return the fields of the event of an undo, with what each key held before it.
-- in:  vault
-- out: fields_of_undo
local function fields_of_undo(actor, undo, words, first, last)
  local names, held = {}, {}
  for i = first, last, 6 do
    local key = words[i]
    names[#names + 1] = #key .. ':' .. key .. ','
    held[#held + 1], held[#held + 2] = 'before', key
    key = vault .. key
    local kind, expires = call('TYPE', key).ok, string.format('%.0f', call('PEXPIRETIME', key))
    local kept_as, kept = 'value', ''
    if kind == 'none' then
      expires = 'absent'
    elseif kind == 'string' then
      kept = call('GET', key)
    else
      kept_as, kept = 'image', call('DUMP', key)
    end
    held[#held + 1], held[#held + 2] = 'expires', expires
    held[#held + 1], held[#held + 2] = kept_as, kept
  end
  local fields = {
    'token', '-', 'op', 'UNDO', 'keys', table.concat(names), 'correlation', undo,
    'policy', '- 0', 'actor', actor,
  }
  for i = 1, #held do fields[#fields + 1] = held[i] end
  return fields
end
