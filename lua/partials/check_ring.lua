-- A ring holds the times of the last calls; the oldest one's slot is the next to be used.
-- So no window of any position holds more than its slots. What was never written is free.
--% if limit.subject == "identity"
place_n = {{ limit.slot.offset }} + head_n * 8
local oldest = call('GETRANGE', {{ names.state }}, place_n, place_n + 7)
--% else
local place_n = {{ subject_ring_offset }} + head_n * 8
local oldest = call('GETRANGE', subject, place_n, place_n + 7)
--% endif
local free_us = 0
if oldest ~= '' then free_us = unpack_struct('<d', oldest) + {{ limit.slot.period_us }} end
if free_us > now_us then
  code, detail, value, at_us = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}, free_us
else
  head_n = (head_n + 1) % {{ limit.slot.capacity }}
end
