-- open_cap: begin a window of a cap if the last one is over.
-- in:  counter, limit, period_us, life_us, now_us
-- out: code, ends_N, used_N
--
-- The window of a cap for the token's life, whose period is 0, ends with the token.
-- What no cap can have counted is denied as corrupt.
if period_us == 0 then ends_N = life_us end
if not (counter > 0 and counter < {{ max_caps + 1 }} and limit < {{ latest_us }} and used_N >= 0 and used_N < {{ latest_us }} and ends_N < {{ latest_us }} and (period_us == 0
--% for length_us in budget_periods_us
  or period_us == {{ length_us }}
--% endfor
)) then
  code = 'COUNTER_CORRUPT'
elseif now_us >= ends_N then
  used_N, ends_N = 0, now_us - now_us % period_us + period_us
  if period_us == {{ month.period_us }} then
--% with limit = month
--% include "limit/find_window_end.lua"
--% endwith
  end
end
