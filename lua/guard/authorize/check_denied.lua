-- check_denied: deny a key that a deny rule matches.
-- in:  key
-- out: code, detail, matched, reason, value
matched = false
--% with matchers = denied, named = true
--% include "authorize/match_any.lua"
--% endwith
if matched then code, detail, value, reason = 'KEY_DENIED', 'key', key, matched end
