-- check_ancestors: deny a call of a child token that a cap of an ancestor does not allow, or else
-- count it for all of them.
-- in:  ancestors, reads, writes, deletes, now_us, token_key, byte_caps
-- out: amount, ancestors, at_us, byte_caps, code, counted_by, detail, value
--% if batch
counted_by = {}
--% endif
for i = 1, #ancestors do
  local caps, caps_at, cap_count, life_us = unpack(ancestors[i], 1, 4)
--% with holder = name("ancestors[i][5]")
--% include "limit/check_caps.lua"
--% endwith
--% if batch
  counted_by[i] = caps
--% else
  ancestors[i][1], ancestors[i][2] = caps, caps_at
--% endif
end
if code then amount = ' by=ancestor' end
