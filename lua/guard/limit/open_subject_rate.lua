-- A reload cannot visit every subject. So each rate of one says how it was counted: its
-- number (a ring's head, GCRA's TAT), the ring's capacity or 0, its period or GCRA's
-- interval, and then the ring. Where that is not this limit's way, it is moved when seen.
local header = call('GETRANGE', subject, 0, {{ subject_ring_offset - 1 }})
if header ~= '' then
  local capacity, pace_us
  if #header == {{ subject_ring_offset }} then
--% if limit.slot.kind == "gcra"
    tat_N, capacity, pace_us = struct.unpack('<ddd', header)
--% else
    head_N, capacity, pace_us = struct.unpack('<ddd', header)
--% endif
  end
  if capacity ~= {{ limit.slot.capacity }} or pace_us ~= {{ limit.slot.pace_us }} then
--% include "limit/ordered_ring.lua"
--% include "limit/known_counter.lua"
    local from, counted = known_counter(subject, header, capacity, pace_us)
    if not from then
      -- Denied below as corrupt.
--% if limit.slot.kind == "gcra"
      tat_N = {{ latest_us }}
--% else
      head_N = -1
--% endif
    else
--% if limit.slot.kind == "gcra"
--% include "limit/moved_tat.lua"
      tat_N = moved_tat({ interval_us = {{ limit.slot.pace_us }} }, from, counted, now_us)
      if tat_N > now_us and tat_N < {{ latest_us }} then
        call('SET', subject, struct.pack('<ddd', tat_N, 0, {{ limit.slot.pace_us }}), 'PX', string.format('%.0f', math.ceil((tat_N - now_us) / 1000) + {{ counter_keep_ms }}))
      end
--% else
--% include "limit/moved_ring.lua"
      local ring = moved_ring({ capacity = {{ limit.slot.capacity }}, period_us = {{ limit.slot.pace_us }} }, from, counted, now_us)
      head_N = 0
      call('SET', subject, struct.pack('<ddd', 0, {{ limit.slot.capacity }}, {{ limit.slot.pace_us }}) .. ring, 'PX', {{ text(limit.slot.period_ms + counter_keep_ms) }})
--% endif
    end
  end
end
