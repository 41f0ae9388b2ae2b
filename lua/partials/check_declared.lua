-- The caller's list of keys is a claim: what is checked is what the command will touch.
for at = first, last, step do
  local name = walked[at]
  if not name then break end
  count = count + 1
--% if batch
  -- Keys of commands that were refused are declared too.
  while keys[count] and keys[count] ~= name do count = count + 1 end
--% endif
  if keys[count] ~= name then code = 'KEYS_MISMATCH' end
end
--% if not batch
if keys[count + 1] then code = 'KEYS_MISMATCH' end
--% endif
