-- check_declared: deny a command whose keys are not the declared ones.
-- in:  walked, argv, stop, first, keys, step
-- out: code, count, last, passed_over
--
-- The caller's list of keys is only a claim: the keys that the command will touch are checked.
--% if batch
-- What stands behind the command's last argument is the next command.
if walked == argv and last > stop then last = stop end
if first == last and keys[count + 1] == walked[first] then
  if walked[first] then count = count + 1 end
else
  local compared = count
  for at = first, last, step do
    local name = walked[at]
    if not name then break end
    count = count + 1
    -- Keys of commands that were refused are declared too. No batch has more of them than
    -- arguments: whoever declares others must not make the guard search them again and again.
    while keys[count] and keys[count] ~= name and passed_over < {{ max_arguments }} do
      count, passed_over = count + 1, passed_over + 1
    end
    if keys[count] ~= name then code = 'KEYS_MISMATCH' end
  end
  -- One command whose keys were not declared spoils no other.
  if code then count = compared end
end
--% else
if first == last then
  if keys[1] ~= walked[first] or keys[2] then code = 'KEYS_MISMATCH' end
else
  for at = first, last, step do
    local name = walked[at]
    if not name then break end
    count = count + 1
    if keys[count] ~= name then code = 'KEYS_MISMATCH' end
  end
  if keys[count + 1] then code = 'KEYS_MISMATCH' end
end
--% endif
