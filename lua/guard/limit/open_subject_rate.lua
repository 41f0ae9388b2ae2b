-- open_subject_rate: read the counter of one subject of a rate.
-- in:  subject, now_us
-- out: tat_N, head_N   of a GCRA; of a ring
--
-- A reload cannot visit every subject, so each record states how it was counted: its number (a
-- ring's head, GCRA's TAT), the ring's capacity or 0, its period or GCRA's interval, and then the
-- ring. A record that another policy left is migrated when it is seen; one that counted in the
-- other way starts as if it were used up. What no guard
-- can have left is denied as corrupt below.
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
--% if limit.slot.kind == "gcra"
    if capacity and capacity > 0 then
      tat_N = now_us + {{ limit.full_us }}
    elseif not (capacity == 0 and tat_N >= 0 and tat_N < {{ latest_us }} and tat_N % 1 == 0
      and pace_us >= {{ least_pace(limit) }} and pace_us <= {{ max_interval_us }} and {{ part_of_pace(limit) }} == 0) then
      tat_N = {{ latest_us }}
    elseif tat_N > now_us then
      -- As many calls are still owed; each now costs the new interval.
      tat_N = now_us + math.ceil((tat_N - now_us) / pace_us * {{ limit.slot.pace_us }})
    end
    if tat_N > now_us and tat_N < {{ latest_us }} then
      call('SET', subject, struct.pack('<ddd', tat_N, 0, {{ limit.slot.pace_us }}), 'PX', string.format('%.0f', math.ceil((tat_N - now_us) / 1000) + {{ limit.keep_ms }}))
    end
--% else
    local ring
    if capacity == 0 then
      ring = string.rep(struct.pack('<d', now_us), {{ limit.slot.capacity }})
    elseif capacity and head_N >= 0 and head_N < capacity and head_N % 1 == 0
      and capacity <= {{ max_ring_slots }} and capacity % 1 == 0 then
      -- A byte more than there may be. A ring grows slot by slot until it goes round.
      local size = {{ subject_ring_offset }} + capacity * 8
      local counted = call('GETRANGE', subject, 0, size)
      if #counted == size or #counted == {{ subject_ring_offset }} + head_N * 8 then
--% include "limit/moved_ring.lua"
        ring = moved_ring({{ limit.slot.capacity }}, counted, 0, {{ subject_ring_offset }}, capacity)
      end
    end
    head_N = -1
    if ring then
      head_N = 0
      call('SET', subject, struct.pack('<ddd', 0, {{ limit.slot.capacity }}, {{ limit.slot.pace_us }}) .. ring, 'PX', {{ text(limit.slot.period_ms + limit.keep_ms) }})
    end
--% endif
  end
end
