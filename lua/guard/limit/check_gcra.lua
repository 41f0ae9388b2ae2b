-- check_gcra: deny a call that comes too early. GCRA: tat is the theoretical arrival time of the
-- next call.
-- in:  tat_N, now_us
-- out: at_us, code, detail, value
--
-- The comparison is written to deny NaN.
--% if limit.counter.is_bytes
-- The bytes must fit below the burst, whose time is the tolerance.
local fits_us = math.max(tat_N, now_us) + math.ceil({{ taken }} * {{ limit.slot.interval_us }}) - {{ limit.tolerance_us }}
if not (fits_us <= now_us) then
  code, detail, value, at_us = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}, fits_us
  if not (tat_N < {{ latest_us }}) then code = 'COUNTER_CORRUPT' end
end
--% else
if not (tat_N - {{ limit.tolerance_us }} <= now_us) then
  code, detail, value = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}
  at_us = tat_N - {{ limit.tolerance_us }}
  if not (tat_N < {{ latest_us }}) then code = 'COUNTER_CORRUPT' end
end
--% endif
