-- What a step of `moves` puts into a state's numbers, and the place of the next step; nothing
-- if it is a step for a ring. See operator/load/migration.py.
local function step_number(moves, at, state, now_us)
  local step = string.sub(moves, at, at)
  if step == '=' then
    local first, last, next_at = unpack_struct('<HH', moves, at + 1)
    return string.sub(state, first, last), next_at
  elseif step == '0' then
    local length, next_at = unpack_struct('<H', moves, at + 1)
    return string.rep('\0', length), next_at
  elseif step == 'b' then
    local index, new_end_us, next_at = unpack_struct('<Hd', moves, at + 1)
    local end_us, used = unpack_struct('<dd', state, index * 8 + 1)
    if now_us >= end_us then return pack('<dd', 0, 0), next_at end
    -- No window ends so late: what is corrupt stays so.
    if not (end_us < {{ latest_us }}) then return pack('<dd', end_us, used), next_at end
    -- The window that is open stays open, with its count, until the new calendar ends it.
    return pack('<dd', new_end_us, used), next_at
  elseif step == 'p' then
    local index, pace_us, new_pace_us, next_at = unpack_struct('<Hdd', moves, at + 1)
    local from = { kind = 'gcra', index = index, interval_us = pace_us }
    return pack('<d', moved_tat({ interval_us = new_pace_us }, from, state, now_us)), next_at
  elseif step == 'o' then
    local index, offset, capacity, pace_us, next_at = unpack_struct('<HIId', moves, at + 1)
    -- What was never used is not made to be looked through.
    if #state <= offset then return pack('<d', 0), next_at end
    local from = { kind = 'ring', index = index, offset = offset, capacity = capacity }
    return pack('<d', moved_tat({ interval_us = pace_us }, from, state, now_us)), next_at
  end
end
