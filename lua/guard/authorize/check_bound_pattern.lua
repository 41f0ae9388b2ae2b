-- check_bound_pattern: deny a pattern of SORT, for `weigh`, that may name keys which the restrictions
-- of the token leave out.
-- in:  bindings, narrow, record, command, at, argv, before, find
-- out: matched
local match, key, matched = string.match, before, true
if narrow > 0 then
--% with starts = true
--% include "authorize/match_narrow.lua"
--% endwith
end
if bindings > 0 and matched then
  matched = false
--% for plan in patterns
  if find({{ plan.commands }}, ',' .. command .. ',', 1, true) then
--% with matchers = plan.opens | selectattr("captured") | list, binding = true
--% include "authorize/match_any.lua"
--% endwith
  end
--% endfor
end
if not matched then return 0, 0, 'KEY_NOT_GRANTED', argv[at], nil, ' by=token' end
