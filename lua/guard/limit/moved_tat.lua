-- What a GCRA of another interval, or a ring, counted, as a theoretical arrival time. What is
-- corrupt stays so: no time is as late as {{ latest_us }}.
local function moved_tat(limit, from, state, now_us)
  local tat_us = 0
  if from.kind == 'gcra' then
    tat_us = struct.unpack('<d', state, from.index * 8 + 1)
    if tat_us <= now_us then return tat_us end
    -- So many calls are still owed; each now costs the new interval.
    return now_us + math.ceil((tat_us - now_us) / from.interval_us * limit.interval_us)
  end
  local calls = ordered_ring(state, from)
  if not calls then return {{ latest_us }} end
  for position = 1, #calls, 8 do
    local at_us = struct.unpack('<d', calls, position)
    if not (at_us < {{ latest_us }}) then return {{ latest_us }} end
    if at_us > 0 then tat_us = math.max(tat_us, at_us) + limit.interval_us end
  end
  return tat_us
end
