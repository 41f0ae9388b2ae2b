-- check_bound_prefix: deny a prefix of an index if the restrictions of the token leave out keys that
-- begin with it.
-- in:  bindings, narrow, record, key, command, name_at, stop, find
-- out: amount, code, detail, matched, value
local match = string.match
matched = true
if narrow > 0 then
--% with starts = true
--% include "authorize/match_narrow.lua"
--% endwith
end
--% with binding = true
if bindings > 0 and matched then
  matched = false
--% with matchers = rule.index.opens | selectattr("captured") | list
--% include "authorize/match_any.lua"
--% endwith
--% if rule.index.command == "FT.DROPINDEX"
  if matched and name_at + 1 < stop then
    matched = false
--% with matchers = rule.index.deleted | selectattr("captured") | list
--% include "authorize/match_any.lua"
--% endwith
  end
--% endif
end
--% endwith
if not matched then code, detail, value, amount = 'KEY_NOT_GRANTED', 'key', key .. '*', ' by=token' end
