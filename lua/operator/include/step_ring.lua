-- step_ring: return the ring that a step of `moves` makes, its capacity and the next place.
-- in:  pack, unpack_struct, moved_ring
-- out: step_ring
--
-- The ring is '' if it holds no call. See operator/load/migration.py.
local function step_ring(moves, at, state, now_us)
  local step = string.sub(moves, at, at)
  if step == 'k' then
    local offset, capacity, next_at = unpack_struct('<II', moves, at + 1)
    return string.sub(state, offset + 1, offset + capacity * 8), capacity, next_at
  elseif step == 'm' then
    local index, offset, held, capacity, next_at = unpack_struct('<HIII', moves, at + 1)
    -- A ring that was never used stays absent.
    if #state <= offset then return '', capacity, next_at end
    return moved_ring(capacity, state, index, offset, held), capacity, next_at
  end
  local capacity, next_at = unpack_struct('<I', moves, at + 1)
  return step == 'u' and string.rep(pack('<d', now_us), capacity) or '', capacity, next_at
end
