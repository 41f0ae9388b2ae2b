-- take_gcra: count a call towards a GCRA rate. The time never moves back, so a clock that does
-- cannot give a second burst.
-- in:  now_us
-- out: tat_N
if tat_N < now_us then tat_N = now_us end
tat_N = tat_N + {{ limit.slot.interval_us }}
