-- Only keys that a scan grant matches and no deny rule does.
local found, listed = reply[2], {}
for i = 1, #found do
  local code, detail, value
  local key, check = found[i], {{ scan_check }}
--% include "partials/check_key.lua"
  if not code then listed[#listed + 1] = key end
end
reply[2] = listed
