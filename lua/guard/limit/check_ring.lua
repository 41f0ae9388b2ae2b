-- A ring holds the times of the last calls; the oldest one's slot is the next to be used.
-- So no window of any position holds more than its slots. What was never written is free.
-- A fenced agent may write any bytes there: what is no slot, or no time, is a corrupt counter.
local oldest, free_us = 'none', 0
if head_n >= 0 and head_n < {{ limit.slot.capacity }} and head_n % 1 == 0 then
  place_n = {{ offset }} + head_n * 8
--% if batch
  -- Where the batch has taken every slot, the oldest call is its own.
  oldest = struct.pack('<d', now_us)
  if taken_n < {{ limit.slot.capacity }} then oldest = call('GETRANGE', {{ ring }}, place_n, place_n + 7) end
--% else
  oldest = call('GETRANGE', {{ ring }}, place_n, place_n + 7)
--% endif
end
if #oldest == 8 then
  free_us = struct.unpack('<d', oldest) + {{ limit.slot.period_us }}
elseif oldest ~= '' then
  free_us = {{ latest_us }}
end
if not (free_us <= now_us) then
  code, detail, value, at_us = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}, free_us
  if not (free_us < {{ latest_us }}) then code = 'COUNTER_CORRUPT' end
end
