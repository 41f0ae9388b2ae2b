-- check_budget: deny a call if the budget is exhausted.
-- in:  used_N, ends_N, now_us
-- out: at_us, code, detail, value
--
-- What no budget can have counted is denied as
-- a corrupt counter.
if not (used_N >= 0 and {{ used_with(limit, taken) }} < {{ limit.slot.limit }} and ends_N < {{ latest_us }}) then
  if not (used_N >= 0 and used_N < {{ latest_us }} and ends_N < {{ latest_us }}) then
    code, detail, value = 'COUNTER_CORRUPT', 'limit', {{ limit.slot.name }}
  elseif now_us < ends_N then
    code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', {{ limit.slot.name }}, ends_N
  end
end
