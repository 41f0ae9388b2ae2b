-- check_declared: deny a command whose keys are not the declared ones.
-- in:  walked, argv, stop, first, keys, step
-- out: code, count, last, passed_over
--
-- The caller's list of keys is only a claim: the keys that the command will touch are checked.
--% if batch
-- The next command follows the command's last argument.
if walked == argv and last > stop then last = stop end
if first == last and keys[count + 1] == walked[first] then
  if walked[first] then count = count + 1 end
else
  local compared = count
  for at = first, last, step do
    local name = walked[at]
    if not name then break end
    count = count + 1
    -- Keys of denied commands are declared too. No batch has more of them than arguments; the bound
    -- prevents a caller that declares others from making the guard search them repeatedly.
    while keys[count] and keys[count] ~= name and passed_over < {{ max_arguments }} do
      count, passed_over = count + 1, passed_over + 1
    end
    if keys[count] ~= name then code = 'KEYS_MISMATCH' end
  end
  -- A command whose keys were not declared does not affect the others.
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
