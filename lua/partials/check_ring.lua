-- A ring holds the times of the last calls; the oldest one's slot is the next to be used.
-- So no window of any position holds more than its slots. What was never written is free.
place_n = {{ offset }} + head_n * 8
--% if batch
-- Where the batch has taken every slot, the oldest call is its own.
local oldest = struct.pack('<d', now_us)
if taken_n < {{ limit.slot.capacity }} then oldest = call('GETRANGE', {{ ring }}, place_n, place_n + 7) end
--% else
local oldest = call('GETRANGE', {{ ring }}, place_n, place_n + 7)
--% endif
local free_us = 0
if oldest ~= '' then free_us = struct.unpack('<d', oldest) + {{ limit.slot.period_us }} end
if free_us > now_us then
  code, detail, value, at_us = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}, free_us
end
