-- match_index: deny a search index that no grant matches, or that the bindings of the token leave out.
-- in:  key, bindings
-- out: amount, code, detail, matched, value
matched = false
--% with matchers = indexes
--% include "authorize/match_any.lua"
--% endwith
-- A module may read a name up to a NUL byte.
if not matched or find(key, '%z') then code, detail, value = 'INDEX_NOT_GRANTED', 'index', key end
--% if bound_tokens
if bindings and bindings > 0 and not code then
  local match = string.match
  matched = false
--% with matchers = indexes | selectattr("captured") | list, binding = true
--% include "authorize/match_any.lua"
--% endwith
  if not matched then code, detail, value, amount = 'INDEX_NOT_GRANTED', 'index', key, ' by=token' end
end
--% endif
