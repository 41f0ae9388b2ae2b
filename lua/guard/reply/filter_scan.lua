-- filter_scan: keep only the keys that a scan grant matches and no deny rule does.
-- in:  none
-- out: found, listed, reply
local found, listed = reply[2], {}
for i = 1, #found do
  local code, detail, value
  local key, check = found[i], {{ scan_check }}
--% if bound_tokens
  local amount
--% endif
--% include "authorize/check_key.lua"
  if not code then listed[#listed + 1] = key end
end
reply[2] = listed
