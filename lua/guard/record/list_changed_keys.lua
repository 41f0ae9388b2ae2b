-- list_changed_keys: list the keys that the command changes, each once.
-- in:  first, last, step, walked, changes_first, changes_rest
-- out: imaged
for at = first, last, step do
  local name = walked[at]
  if not name then break end
  if not imaged[name] and (at == first and changes_first or at > first and changes_rest) then
    imaged[#imaged + 1], imaged[name] = name, true
  end
end
