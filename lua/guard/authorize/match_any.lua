--% with grouping = grouped(matchers), known = 0
--% if grouping.position
local byte
--% endif
--% include "authorize/match_group.lua"
--% endwith
