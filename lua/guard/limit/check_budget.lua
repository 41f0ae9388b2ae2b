-- check_budget: deny a call if the budget is exhausted.
-- in:  used_N, ends_N, now_us
-- out: at_us, code, detail, value
--
-- A fenced agent may write any bytes in its counters. A value that is not a number is denied as a
-- corrupt counter; one that is smaller than what was counted helps only the agent that wrote it.
if not (used_N < {{ limit.slot.limit }} and ends_N < {{ latest_us }}) then
  if not (used_N < {{ latest_us }} and ends_N < {{ latest_us }}) then
    code, detail, value = 'COUNTER_CORRUPT', 'limit', {{ limit.slot.name }}
  elseif now_us < ends_N then
    code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', {{ limit.slot.name }}, ends_N
  end
end
