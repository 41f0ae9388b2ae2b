-- take_ring: count a call towards a ring.
-- in:  none
-- out: head_N, taken_N
head_N = (head_N + 1) % {{ limit.slot.capacity }}
--% if batch
taken_N = taken_N + 1
--% endif
