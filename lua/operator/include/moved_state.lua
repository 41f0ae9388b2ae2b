-- moved_state: return a state in another layout; all zero if there is none.
-- in:  unpack_struct, step_number, step_ring
-- out: moved_state
--
-- `moves` comes from operator/load/migration.py: the new stamp, the lengths of both headers, steps.
local function moved_state(moves, state, now_us)
  local stamp, size, from_size, at = unpack_struct('<c8HH', moves)
  if not state then return stamp .. string.rep('\0', size - 8) end
  -- Missing numbers of a damaged state become NaN: the identity is suspended, and its limits deny.
  state = state .. string.rep('\255', from_size - #state)
  local numbers, rings, sizes, has_calls = { stamp }, {}, {}, false
  while at <= #moves do
    local number, next_at = step_number(moves, at, state, now_us)
    if number then
      numbers[#numbers + 1] = number
    else
      local ring, capacity
      ring, capacity, next_at = step_ring(moves, at, state, now_us)
      has_calls = has_calls or ring ~= ''
      rings[#rings + 1], sizes[#sizes + 1] = ring, capacity * 8
    end
    at = next_at
  end
  if not has_calls then return table.concat(numbers) end
  for n, ring in ipairs(rings) do rings[n] = ring .. string.rep('\0', sizes[n] - #ring) end
  return table.concat(numbers) .. table.concat(rings)
end
