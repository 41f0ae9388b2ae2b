-- The caller's list of keys is a claim: what is checked is what the command will touch.
--% if batch
local compared = count
--% endif
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
--% if batch
-- One command whose keys were not declared spoils no other.
if code then count = compared end
--% else
if keys[count + 1] then code = 'KEYS_MISMATCH' end
--% endif
