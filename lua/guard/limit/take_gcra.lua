-- It never moves back, so a server clock that does cannot give a second burst.
if tat_n < now_us then tat_n = now_us end
tat_n = tat_n + {{ limit.slot.interval_us }}
