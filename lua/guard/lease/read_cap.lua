-- read_cap: find a cap in the token's record.
-- in:  caps, caps_at, cap_count, life_us, now_us
-- out: cap_at_N, code, detail, ends_N, most_N, used_N, value, window_id_N
--
-- The window of one for the token's life is the same when that changes.
local most_N, cap_at_N, window_id_N
local used_N, ends_N = 0, 0
for i = 1, caps and cap_count or 0 do
  local at = caps_at + (i - 1) * {{ cap_bytes }}
  local counter, limit, period_us, used, ends_us = struct.unpack({{ cap_format }}, caps, at)
  if counter == {{ cap_number(limit.counter) }} and not code then
    most_N, cap_at_N, used_N, ends_N = limit, at, used, ends_us
--% include "limit/open_cap.lua"
    window_id_N = period_us == 0 and 1 or ends_N
    if code then detail, value = 'limit', {{ limit.slot.name }} end
  end
end
if code then break end
