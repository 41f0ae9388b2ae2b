matched = false
--% with matchers = denied
--% include "partials/match_any.lua"
--% endwith
if matched then code, detail, value = 'KEY_DENIED', 'key', key end
