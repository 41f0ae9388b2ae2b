-- take_budget: count a call towards a budget.
-- in:  now_us, ends_N
-- out: used_N
if now_us >= ends_N then
  used_N = 0
--% include "limit/find_window_end.lua"
end
used_N = used_N + {{ taken }}
