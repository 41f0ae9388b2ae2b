-- open_subject_budget: read the counter of one subject of a budget.
-- in:  subject, now_us
-- out: ends_N, used_N
local period_us
local kept = call('GETRANGE', subject, 0, {{ subject_ring_offset - 1 }})
if #kept == {{ subject_ring_offset }} then ends_N, used_N, period_us = struct.unpack('<ddd', kept) end
if kept ~= '' and period_us ~= {{ limit.slot.period_us }} then
  -- A reload gave the budget another window. What was never one is a corrupt record, and is denied
  -- below.
  if false
--% for length_us in budget_periods_us
  or period_us == {{ length_us }}
--% endfor
  then
    if now_us < ends_N and ends_N < {{ latest_us }} then
      -- The open one now ends with the new calendar.
--% include "limit/find_window_end.lua"
      call('SET', subject, struct.pack('<ddd', ends_N, used_N, {{ limit.slot.period_us }}), 'PX', string.format('%.0f', math.ceil((ends_N - now_us) / 1000) + {{ limit.keep_ms }}))
    end
  else
    ends_N = {{ latest_us }}
  end
end
