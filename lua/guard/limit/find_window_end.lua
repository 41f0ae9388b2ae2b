-- find_window_end: find when the current window of a budget ends.
-- in:  none
-- out: ends_N
--% if limit.runs | length == 1
ends_N = now_us - (now_us - {{ limit.runs[0].start_us }}) % {{ limit.runs[0].step_us }} + {{ limit.runs[0].step_us }}
--% else
ends_N = (function(now_us)
  -- One text for each time zone, which all guards share: numbers would be constants of every one.
  for until_us, start_us, step_us in string.gmatch({{ runs_of(limit.runs) }}, '(%d*):(%d+):(%d+)') do
    until_us = tonumber(until_us) or math.huge
    if now_us < until_us then
      return math.min(now_us - (now_us - start_us) % step_us + step_us, until_us)
    end
  end
end)(now_us)
--% endif
