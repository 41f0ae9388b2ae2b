-- filter_indexes: keep only the names of indexes that are granted.
-- in:  reply, bindings
-- out: reply
local listed = {}
for i = 1, #reply do
  local code, detail, value, matched
--% if bound_tokens
  local amount
--% endif
  -- A status is a table.
  local key = type(reply[i]) == 'table' and reply[i].ok or reply[i]
--% with indexes = index_listed
--% include "authorize/match_index.lua"
--% endwith
  if not code then listed[#listed + 1] = key end
end
reply = listed
