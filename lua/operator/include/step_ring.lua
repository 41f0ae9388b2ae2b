-- The ring that a step of `moves` makes, '' if it holds no call; its capacity, and the place of
-- the next step. See operator/load/migration.py.
local function step_ring(moves, at, state, now_us)
  local step = string.sub(moves, at, at)
  if step == 'n' then
    local capacity, next_at = unpack_struct('<I', moves, at + 1)
    return '', capacity, next_at
  elseif step == 'k' then
    local offset, capacity, next_at = unpack_struct('<II', moves, at + 1)
    return string.sub(state, offset + 1, offset + capacity * 8), capacity, next_at
  elseif step == 'm' then
    local index, offset, held, capacity, next_at = unpack_struct('<HIII', moves, at + 1)
    -- What was never used is not made to be looked through.
    if #state <= offset then return '', capacity, next_at end
    local from = { kind = 'ring', index = index, offset = offset, capacity = held }
    return moved_ring({ capacity = capacity }, from, state, now_us), capacity, next_at
  end
  local index, pace_us, period_us, capacity, next_at = unpack_struct('<HddI', moves, at + 1)
  local from = { kind = 'gcra', index = index, interval_us = pace_us, period_us = period_us }
  local limit = { capacity = capacity, period_us = period_us }
  return moved_ring(limit, from, state, now_us), capacity, next_at
end
