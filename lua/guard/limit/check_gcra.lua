-- GCRA: tat is the theoretical arrival time of the next call.
-- Compared so that what is no number is denied: a fenced agent may write any bytes there.
if not (tat_n - {{ limit.tolerance_us }} <= now_us) then
  code, detail, value = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}
  at_us = tat_n - {{ limit.tolerance_us }}
  if not (tat_n < {{ latest_us }}) then code = 'COUNTER_CORRUPT' end
end
