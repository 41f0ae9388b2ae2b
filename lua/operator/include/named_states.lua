-- named_states: return names and states of the wanted identities, or of all active ones.
-- in:  layouts_key, state_prefix, guard_prefix
-- out: named_states
--
-- Returns nil and a name if that identity is not active.
local function named_states(wanted)
  local all = not wanted[1]
  if all then
    wanted = call('HKEYS', layouts_key)
    table.sort(wanted)
  end
  local states = {}
  for _, name in ipairs(wanted) do
    local state = state_prefix .. name
    -- A short value left by a change of prefixes is not a state.
    if call('EXISTS', guard_prefix .. name, state) == 2 and call('STRLEN', state) >= 16 then
      states[#states + 1], states[#states + 2] = name, state
    elseif not all then
      return nil, name
    end
  end
  return states
end
