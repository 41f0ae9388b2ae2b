-- check_caps: deny a call that a cap of the token does not allow, or else count it.
-- in:  caps, caps_at, cap_count, life_us, reads, writes, deletes, now_us
-- out: at_us, caps, caps_at, code, detail, value
--
-- Each is its counter, limit, period, uses and the end of the window. They stay one string, which is
-- written back.
local counted, at = nil, caps_at
for _ = 1, cap_count do
  local counter, limit, period_us, used_N, ends_N, last = struct.unpack({{ cap_format }}, caps, at)
  at = last
  if counter == 1 or counter == 2 and reads or counter == 3 and writes or counter == 4 and deletes or counter > 4 then
--% include "limit/open_cap.lua"
    if not code then
      used_N = used_N + {{ taken }}
      if not (used_N <= limit) then code, at_us = 'BUDGET_EXHAUSTED', ends_N end
    end
    if code then
      detail, value = 'limit', 'token.' .. (string.match(' requests reads writes deletes ', string.rep(' %a+', counter - 1) .. ' (%a+)') or '')
      break
    end
  end
  local packed = struct.pack({{ cap_format }}, counter, limit, period_us, used_N, ends_N)
  counted = counted and counted .. packed or packed
end
if code then break end
caps, caps_at = counted, 1
