local period_us
local kept = call('GET', subject)
if kept then ends_n, used_n, period_us = struct.unpack('<ddd', kept) end
if period_us and period_us ~= {{ limit.slot.period_us }} and now_us < ends_n then
  -- A reload gave the budget another window: the open one now ends with the new calendar.
--% include "partials/find_window_end.lua"
  call('SET', subject, struct.pack('<ddd', ends_n, used_n, {{ limit.slot.period_us }}), 'PX', string.format('%.0f', math.ceil((ends_n - now_us) / 1000)))
end
