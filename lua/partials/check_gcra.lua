-- GCRA: tat is the theoretical arrival time of the next call.
if tat_n - {{ limit.tolerance_us }} > now_us then
  code, detail, value = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}
  at_us = tat_n - {{ limit.tolerance_us }}
end
