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
--% if "s" in hows
elseif how == 's' then
  by = 'SISMEMBER'
  if command == 'SMOVE' then final = min(from, stop) end
--% endif
--% if "h" in hows
elseif how == 'h' then
  width, by = 2, 'HEXISTS'
--% endif
--% if "e" in hows
elseif how == 'e' then
  while from <= stop and word(from) ~= 'FIELDS' do from = from + 1 end
  from, width, by = from + 2, 2, 'HEXISTS'
--% endif
--% if "c" in hows or "d" in hows
elseif how == 'c' or how == 'd' then
  by, final = 'HEXISTS', min(from, stop)
--% endif
--% if "z" in hows or "g" in hows
elseif how == 'z' or how == 'g' then
  while from <= stop and find(' NX XX GT LT CH INCR ', ' ' .. word(from) .. ' ', 1, true) do
    nothing = nothing or word(from) == 'XX'
    from = from + 1
  end
  width, by = how == 'z' and 2 or 3, 'ZSCORE'
  shift = width - 1
--% endif
--% if "q" in hows
elseif how == 'q' then
  by = 'ZSCORE'
--% endif
--% if "t" in hows
elseif how == 't' then
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
