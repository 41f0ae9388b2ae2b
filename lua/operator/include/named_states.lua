-- named_states: return names and states of the wanted identities, or of all active ones.
-- in:  layouts_key, state_prefix, guard_prefix
-- out: named_states
--
-- Returns nil and a name if that identity is not active: it has a state, and a guard record or the
-- stamp of a guard, which alone keeps the guard callable.
local function named_states(wanted)
  local all = not wanted[1]
  if all then
    wanted = call('HKEYS', layouts_key)
    table.sort(wanted)
  end
  local states = {}
  for _, name in ipairs(wanted) do
    local state = state_prefix .. name
    -- A value without a header is not a state.
    local is_active = call('STRLEN', state) >= 16 and (call('EXISTS', guard_prefix .. name) == 1
      or struct.unpack('<d', call('GETRANGE', state, 0, 7)) ~= 0)
    if is_active then
      states[#states + 1], states[#states + 2] = name, state
    elseif not all then
      return nil, name
    end
  end
  return states
end
