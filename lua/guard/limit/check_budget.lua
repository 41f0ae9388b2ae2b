-- A fenced agent may write any bytes there. What is no number is denied, as a corrupt counter; a
-- smaller one than was counted is its own, as if it had reset the counter.
if not (used_n < {{ limit.slot.limit }} and ends_n < {{ latest_us }}) then
  if not (used_n < {{ latest_us }} and ends_n < {{ latest_us }}) then
    code, detail, value = 'COUNTER_CORRUPT', 'limit', {{ limit.slot.name }}
  elseif now_us < ends_n then
    code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', {{ limit.slot.name }}, ends_n
  end
end
