-- find_elements: find the words of a call that become elements, for check_values.
-- in:  base, place, stop, how, word, argv
-- out: by, final, from, most, nothing, shift, width
--
-- Each `width` words from `from` to `final` are an element, which the one at `shift` names; `by` is
-- the command that knows whether it is there.
local from, final, width, shift, by = base + place, stop, 1, 0, nil
-- Whether nothing is added; the most elements after the call.
local nothing, most = false, huge
if false then
--% if Writes.SET in values.hows
elseif how == {{ Writes.SET }} then
  by = 'SISMEMBER'
  if command == 'SMOVE' then final = min(from, stop) end
--% endif
--% if Writes.PAIRS in values.hows
elseif how == {{ Writes.PAIRS }} then
  width, by = 2, 'HEXISTS'
--% endif
--% if Writes.FIELDS in values.hows
elseif how == {{ Writes.FIELDS }} then
  while from <= stop and word(from) ~= 'FIELDS' do from = from + 1 end
  from, width, by = from + 2, 2, 'HEXISTS'
--% endif
--% if Writes.FIELD_NUMBER in values.hows or Writes.FIELD_FLOAT in values.hows
elseif how == {{ Writes.FIELD_NUMBER }} or how == {{ Writes.FIELD_FLOAT }} then
  by, final = 'HEXISTS', min(from, stop)
--% endif
--% if Writes.SCORES in values.hows or Writes.PLACES in values.hows
elseif how == {{ Writes.SCORES }} or how == {{ Writes.PLACES }} then
  while from <= stop and find(' NX XX GT LT CH INCR ', ' ' .. word(from) .. ' ', 1, true) do
    nothing = nothing or word(from) == 'XX'
    from = from + 1
  end
  width, by = how == {{ Writes.SCORES }} and 2 or 3, 'ZSCORE'
  shift = width - 1
--% endif
--% if Writes.MEMBER in values.hows
elseif how == {{ Writes.MEMBER }} then
  by = 'ZSCORE'
--% endif
--% if Writes.ENTRY in values.hows
elseif how == {{ Writes.ENTRY }} then
  local keeps_some
  while from <= stop do
    local option = word(from)
    if option == 'MAXLEN' or option == 'MINID' then
      from = from + 1
      local is_exact = word(from) ~= '~'
      if word(from) == '~' or word(from) == '=' then from = from + 1 end
      most = option == 'MAXLEN' and is_exact and tonumber(argv[from]) or huge
      from = from + 1
      if word(from) == 'LIMIT' then from = from + 2 end
    elseif option == 'NOMKSTREAM' or option == 'KEEPREF' or option == 'DELREF' or option == 'ACKED' then
      keeps_some = keeps_some or option == 'ACKED'
      from = from + 1
    else
      break
    end
  end
  if keeps_some or not (most >= 0) then most = huge end
  from = from + 1
--% endif
end
