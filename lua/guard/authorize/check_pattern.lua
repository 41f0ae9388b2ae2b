-- check_pattern: deny a pattern of SORT, for `weigh`, if some element makes a key that is not granted.
-- in:  command, argv, at, before, patterns
-- out: matched
--
-- A granted pattern must end with `*` and match the text before the element. No denied one may have a
-- key with such a beginning and end.
local key, matched = before, false
--% for plan in patterns
--% if patterns[1:]
if find({{ plan.commands }}, ',' .. command .. ',', 1, true) then
--% with matchers = plan.opens
--% include "authorize/match_any.lua"
--% endwith
end
--% else
--% with matchers = plan.opens
--% include "authorize/match_any.lua"
--% endwith
--% endif
--% endfor
-- The server looks for `->` up to a NUL byte.
if not matched or find(argv[at], '%z') then return 0, 0, 'KEY_NOT_GRANTED', argv[at] end
--% if patterns[0].excluded
local ends = patterns[#patterns][3]
local function meets(beginning, ending)
  local first, last = min(#beginning, #before), min(#ending, #ends)
  return string.sub(beginning, 1, first) == string.sub(before, 1, first) and string.sub(ending, #ending - last + 1) == string.sub(ends, #ends - last + 1)
end
--% for item in patterns[0].excluded
if meets({{ item.beginning }}, {{ item.ending }}) then return 0, 0, 'KEY_DENIED', argv[at], {{ item.source }} end
--% endfor
--% endif
--% if bound_tokens
if bindings then
--% include "authorize/check_bound_pattern.lua"
end
--% endif
