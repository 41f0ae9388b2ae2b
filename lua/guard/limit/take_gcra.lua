-- take_gcra: count a call towards a GCRA rate. The time never moves back, so a clock that does
-- cannot give a second burst.
-- in:  now_us
-- out: tat_N
if tat_N < now_us then tat_N = now_us end
--% if limit.counter.is_bytes
tat_N = tat_N + math.ceil({{ taken }} * {{ limit.slot.interval_us }})
--% elif running
tat_N = tat_N + taken * {{ limit.slot.interval_us }}
--% else
tat_N = tat_N + {{ limit.slot.interval_us }}
--% endif
