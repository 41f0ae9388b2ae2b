-- match_any: set matched if one of the matchers matches the key.
-- in:  key
-- out: matched
--% with grouping = grouped(matchers), known = 0
--% if grouping.position
local byte
--% endif
--% include "authorize/match_group.lua"
--% endwith
