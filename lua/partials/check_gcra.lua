-- GCRA: tat is the theoretical arrival time of the next call. It never moves back, so a
-- server clock that does cannot give a second burst.
if tat_n < now_us then tat_n = now_us end
if tat_n - {{ limit.tolerance_us }} > now_us then
  code, detail, value = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}
  at_us = tat_n - {{ limit.tolerance_us }}
else
  tat_n = tat_n + {{ limit.slot.interval_us }}
end
