-- check_ring: deny a call if the oldest one of a ring is still within the period.
-- in:  head_N, now_us, taken_N
-- out: at_us, code, detail, oldest, place_N, value
--
-- A ring holds the times of the newest calls; the slot of the oldest is used next, so no window of
-- any position holds more calls than the ring has slots. A slot that was never written is free.
-- A head or time that cannot be is a corrupt counter.
local oldest, free_us = 'none', 0
if head_N >= 0 and head_N < {{ limit.slot.capacity }} and head_N % 1 == 0 then
  place_N = {{ offset }} + head_N * 8
--% if batch
  -- Where the batch has taken every slot, the oldest call is its own.
  oldest = struct.pack('<d', now_us)
  if taken_N < {{ limit.slot.capacity }} then oldest = call('GETRANGE', {{ ring }}, place_N, place_N + 7) end
--% else
  oldest = call('GETRANGE', {{ ring }}, place_N, place_N + 7)
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
