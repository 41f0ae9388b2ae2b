-- check_result: find how many elements a command stores that stores a result, for check_elements.
-- in:  name, names, command, target, bytes, elements, base, stop, argv, word, is_fresh, state_of,
--      rules_of, may_read, check_all
-- out: is_replaced, was
is_replaced = true
local first_source, last_source = target == {{ Target.FIRST }} and 2 or 1, target == {{ Target.FIRST }} and #names or 1
local sum, least, top, is_looser = 0, huge, nil, false
for i = first_source, last_source do
  local theirs = state_of(names[i])
  sum, least, top = sum + theirs, min(least, theirs), top or theirs
  is_looser = is_looser or bytes < (rules_of(walked[first + (i - 1) * step]))
end
if find(command, 'INTER') then sum = least elseif find(command, 'DIFF') then sum = top or 0 end
local words = { (string.match({{ values.read_forms }}, ' ' .. command .. '=(%S+)')) }
local at, gets = base + 2, 0
if target == {{ Target.FIRST }} and find(command, '^Z') and command ~= 'ZRANGESTORE' then words[2], at = argv[at], at + 1 end
for i = first_source, last_source do words[#words + 1] = names[i] end
if target == {{ Target.FIRST }} then at = at + #names - 1 end
while at <= stop do
  local option = word(at)
  if target == {{ Target.SECOND }} and (option == 'STORE' or option == 'STOREDIST') then
    at = at + 1
  elseif option ~= 'STOREDIST' then
    words[#words + 1] = argv[at]
    if target == {{ Target.SECOND }} and at < stop and (option == 'BY' or option == 'GET') then
      at = at + 1
      words[#words + 1] = argv[at]
      if option == 'GET' then gets = gets + 1 end
    end
  end
  at = at + 1
end
-- A pattern of SORT reads other keys.
if gets > 0 then sum, is_looser = sum * gets, bytes < huge end
-- In a batch, a source that is empty now may not be by then.
if (sum > 0 or not is_fresh) and (was and sum > elements or is_looser) then
  local is_read = is_fresh
  for i = first_source, last_source do is_read = is_read and may_read(names[i], state_of(names[i])) end
  local found = is_read and redis.pcall(unpack(words)) or { err = '' }
  if not found.err then sum = #found end
  if is_looser and work <= left and not (was and sum > elements) then check_all(name, found, bytes) end
end
if was then was = sum end
