-- step_number: return the numbers that a step of `moves` makes, and the place of the next step.
-- in:  pack, unpack_struct, latest_us
-- out: step_number
--
-- Returns nothing for a step of a ring. See operator/load/migration.py.
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
    -- No window ends so late: a corrupt number stays corrupt.
    if not (end_us < latest_us) then return pack('<dd', end_us, used), next_at end
    -- The open window stays open, with its count, until the new calendar ends it.
    return pack('<dd', new_end_us, used), next_at
  elseif step == 'p' then
    local index, pace_us, new_pace_us, next_at = unpack_struct('<Hdd', moves, at + 1)
    local tat_us = unpack_struct('<d', state, index * 8 + 1)
    -- The same number of calls is still owed, at the new interval. A corrupt number stays corrupt.
    if tat_us > now_us and tat_us < latest_us then
      tat_us = now_us + math.ceil((tat_us - now_us) / pace_us * new_pace_us)
    end
    return pack('<d', tat_us), next_at
  elseif step == 'f' then
    local ahead_us, next_at = unpack_struct('<d', moves, at + 1)
    return pack('<d', now_us + ahead_us), next_at
  end
end
