-- check_ancestors: deny a call of a child token that a cap of an ancestor does not allow, or else
-- count it for all of them.
-- in:  ancestors, reads, writes, deletes, now_us
-- out: amount, ancestors, at_us, code, detail, value
local counted_by = {}
for i = 1, #ancestors do
  local caps, caps_at, cap_count, life_us = unpack(ancestors[i], 1, 4)
--% include "limit/check_caps.lua"
  counted_by[i] = caps
end
if code then
  amount = ' by=ancestor'
else
  for i = 1, #ancestors do ancestors[i][1], ancestors[i][2] = counted_by[i], 1 end
end
