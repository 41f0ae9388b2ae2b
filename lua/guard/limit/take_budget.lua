-- Only the end of the window is kept: a clock that goes back stays in the same window.
if now_us >= ends_n then
  used_n = 0
--% include "limit/find_window_end.lua"
end
used_n = used_n + 1
