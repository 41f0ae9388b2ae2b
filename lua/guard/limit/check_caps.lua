-- check_caps: deny a call that a cap of the token does not allow, or else count it.
-- in:  caps, caps_at, cap_count, life_us, reads, writes, deletes, now_us
-- out: at_us, caps, caps_at, code, detail, value
--
-- Each is its counter, limit, period, uses and the end of the window; the window of a cap for the
-- token's life, whose period is 0, ends with the token. They stay one string, which is written back.
-- A fenced agent may write any bytes there: what no cap can have counted is denied as corrupt.
local counted, at = nil, caps_at
for _ = 1, cap_count do
  local counter, limit, period_us, used, ends_N, last = struct.unpack({{ cap_format }}, caps, at)
  at = last
  if counter == 1 or counter == 2 and reads or counter == 3 and writes or counter == 4 and deletes or counter > 4 then
    if period_us == 0 then ends_N = life_us end
    if not (counter > 0 and counter < 5 and used >= 0 and used < {{ latest_us }} and ends_N < {{ latest_us }} and (period_us == 0
--% for length_us in budget_periods_us
      or period_us == {{ length_us }}
--% endfor
    )) then
      code = 'COUNTER_CORRUPT'
    else
      if now_us >= ends_N then
        used, ends_N = 0, now_us - now_us % period_us + period_us
        if period_us == {{ month.period_us }} then
--% with limit = month
--% include "limit/find_window_end.lua"
--% endwith
        end
      end
      used = used + {{ taken }}
      if not (used <= limit) then code, at_us = 'BUDGET_EXHAUSTED', ends_N end
    end
    if code then
      detail, value = 'limit', 'token.' .. (string.match(' requests reads writes deletes ', string.rep(' %a+', counter - 1) .. ' (%a+)') or '')
      break
    end
  end
  local packed = struct.pack({{ cap_format }}, counter, limit, period_us, used, ends_N)
  counted = counted and counted .. packed or packed
end
if code then break end
caps, caps_at = counted, 1
