-- Return how the rate of a subject was counted, and its record; nil of a corrupt record, which the
-- guard of no policy can have left. A fenced agent may write any bytes there, so nothing is made
-- by the numbers of a record before they are known to be a policy's.
local function known_counter(subject, header, capacity, pace_us)
  if not capacity then return end
  local number, size = struct.unpack('<d', header), 0
  if not (number >= 0 and number < {{ latest_us }} and number % 1 == 0) then return end
  if capacity == 0 then
    if not (pace_us >= {{ min_interval_us }} and pace_us <= {{ rate_periods_us[-1] }} and pace_us % 1 == 0) then return end
  elseif capacity > number and capacity <= {{ max_ring_slots }} and capacity % 1 == 0 then
    if false
--% for period_us in rate_periods_us
    or pace_us == {{ period_us }}
--% endfor
    then size = capacity * 8 else return end
  else
    return
  end
  -- A byte more than there may be. A ring grows slot by slot until it goes round.
  local counted = call('GETRANGE', subject, 0, {{ subject_ring_offset }} + size)
  if #counted ~= {{ subject_ring_offset }} + size and (size == 0 or #counted ~= {{ subject_ring_offset }} + number * 8) then return end
  return { kind = size == 0 and 'gcra' or 'ring', index = 0, offset = {{ subject_ring_offset }},
    capacity = capacity, period_us = {{ limit.slot.period_us }}, interval_us = pace_us }, counted
end
