if used_n >= {{ limit.slot.limit }} and now_us < ends_n then
  code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', {{ limit.slot.name }}, ends_n
end
