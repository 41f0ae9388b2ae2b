-- A reload cannot visit every subject. So each rate of one says how it was counted: its
-- number (a ring's head, GCRA's TAT), the ring's capacity or 0, its period or GCRA's
-- interval, and then the ring. Where that is not this limit's way, it is moved when seen.
local header = call('GETRANGE', subject, 0, {{ subject_ring_offset - 1 }})
if header ~= '' then
  local capacity, pace_us
--% if limit.slot.kind == "gcra"
  tat_n, capacity, pace_us = struct.unpack('<ddd', header)
--% else
  head_n, capacity, pace_us = struct.unpack('<ddd', header)
--% endif
  if capacity ~= {{ limit.slot.capacity }} or pace_us ~= {{ limit.slot.pace_us }} then
--% include "partials/ordered_ring.lua"
    local from = { kind = capacity == 0 and 'gcra' or 'ring', index = 0, offset = {{ subject_ring_offset }},
      capacity = capacity, period_us = {{ limit.slot.period_us }}, interval_us = pace_us }
    local counted = call('GET', subject)
--% if limit.slot.kind == "gcra"
--% include "partials/moved_tat.lua"
    tat_n = moved_tat({ interval_us = {{ limit.slot.pace_us }} }, from, counted, now_us)
    if tat_n > now_us then
      call('SET', subject, struct.pack('<ddd', tat_n, 0, {{ limit.slot.pace_us }}), 'PX', string.format('%.0f', math.ceil((tat_n - now_us) / 1000)))
    end
--% else
--% include "partials/moved_ring.lua"
    local ring = moved_ring({ capacity = {{ limit.slot.capacity }}, period_us = {{ limit.slot.pace_us }} }, from, counted, now_us)
    head_n = 0
    call('SET', subject, struct.pack('<ddd', 0, {{ limit.slot.capacity }}, {{ limit.slot.pace_us }}) .. ring, 'PX', {{ text(limit.slot.period_ms) }})
--% endif
  end
end
