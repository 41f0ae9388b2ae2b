-- What a ring of another size, or a GCRA, counted, as a ring whose head is 0. What is corrupt
-- stays so: no time is as late as {{ latest_us }}.
local function moved_ring(limit, from, state, now_us)
  local size = limit.capacity * 8
  local calls
  if from.kind == 'ring' then
    calls = ordered_ring(state, from)
    if not calls then return string.rep(struct.pack('<d', {{ latest_us }}), limit.capacity) end
    calls = string.sub(calls, -size)
  else
    -- A GCRA knows only when it is free again. The most that it may have let through in its
    -- own period are calls spaced evenly up to then; so many are taken as made.
    local at_us, made = struct.unpack('<d', state, from.index * 8 + 1), {}
    if not (at_us < {{ latest_us }}) then return string.rep(struct.pack('<d', {{ latest_us }}), limit.capacity) end
    local since_us = now_us - math.min(limit.period_us, from.period_us)
    while at_us > since_us and #made < limit.capacity do
      at_us = at_us - from.interval_us
      made[#made + 1] = struct.pack('<d', math.min(at_us, now_us))
    end
    for i = 1, math.floor(#made / 2) do
      made[i], made[#made + 1 - i] = made[#made + 1 - i], made[i]
    end
    calls = table.concat(made)
  end
  if calls == string.rep('\0', #calls) then return '' end
  return string.rep('\0', size - #calls) .. calls
end
