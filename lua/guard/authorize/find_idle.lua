-- find_idle: find the replies of a call that say that it changed nothing, for set_expiry.
-- in:  command, base, stop, word
-- out: idle   the letters of such replies; nil if none does
local idles = {{ values.idles }}
local idle = string.match(idles, '=(.)', find(idles, ',' .. command .. ',', 1, true) or #idles)
if idle == 's' then
  -- With GET, the reply is the old value. The word after an IFEQ may be any.
  local gets, is_new, compares
  for at = base + 3, stop do
    gets, is_new, compares = gets or word(at) == 'GET', is_new or word(at) == 'NX', compares or find(word(at), '^IF')
  end
  idle = not gets and 'n' or is_new and not compares and 't' or nil
elseif idle == 'z' then
  local at, is_counted = base + 2, false
  while find(' NX XX GT LT CH INCR ', ' ' .. word(at) .. ' ', 1, true) do
    is_counted = is_counted or word(at) == 'NX' or word(at) == 'CH'
    at = at + 1
  end
  idle = is_counted and 'n0' or 'n'
end
