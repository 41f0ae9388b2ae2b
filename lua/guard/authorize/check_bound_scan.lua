-- check_bound_scan: deny a SCAN whose MATCH begins where the restrictions of the token leave keys out.
-- in:  mask, bindings, narrow, record, bindings_at, find, glob
-- out: amount, code, detail, matched, value
local key, matched, bind = string.match(glob, '^[^*?%[\\]*'), true, {}
if narrow > 0 then
  do
--% with starts = true
--% include "authorize/match_narrow.lua"
--% endwith
  end
  if not matched then
    local key = glob
--% with whole = true
--% include "authorize/match_narrow.lua"
--% endwith
  end
end
if bindings > 0 and matched then
  for name, value in string.gmatch(string.sub(record, bindings_at), '([^:=]+)=([^:]*)') do bind[name] = value end
  -- Up to the first capture without a binding.
  local function begins(start)
    for name in string.gmatch(start, '\255(.-)\255') do
      if not bind[name] then
        start = string.sub(start, 1, find(start, '\255' .. name .. '\255', 1, true) - 1)
        break
      end
    end
    start = string.gsub(start, '\255(.-)\255', bind)
    return string.sub(key, 1, #start) == start
  end
  matched = false
--% with matchers = rule.scan.beginnings | selectattr("captured") | list, binding = true, starts = true
--% include "authorize/match_any.lua"
--% endwith
end
if mask % 16 < 8 then
  code, detail, value, amount = 'CLASS_NOT_GRANTED', 'class', 'scan', ' by=token'
elseif not matched then
  code, detail, value, amount = 'KEY_NOT_GRANTED', 'key', glob, ' by=token'
end
