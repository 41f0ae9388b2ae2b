--% if limit.runs | length == 1
ends_n = now_us - (now_us - {{ limit.runs[0].start_us }}) % {{ limit.runs[0].step_us }} + {{ limit.runs[0].step_us }}
--% else
ends_n = (function(now_us)
  local start_us, until_us, step_us
  if false then
--% for run in limit.runs
--% if run.until_us is not none
  elseif now_us < {{ run.until_us }} then
    start_us, until_us, step_us = {{ run.start_us }}, {{ run.until_us }}, {{ run.step_us }}
--% else
  elseif true then
    start_us, until_us, step_us = {{ run.start_us }}, math.huge, {{ run.step_us }}
--% endif
--% endfor
  end
  return math.min(now_us - (now_us - start_us) % step_us + step_us, until_us)
end)(now_us)
--% endif
