head_n = (head_n + 1) % {{ limit.slot.capacity }}
--% if batch
taken_n = taken_n + 1
--% endif
