-- is_in_force: return whether the prefixes that the caller knows are still in force.
-- in:  sealed_key, prefix, public_prefix
-- out: is_in_force
--
-- Otherwise the script would change keys that no guard reads.
local function is_in_force()
  local control, phase = unpack(call('HMGET', sealed_key, 'control', 'phase'))
  return (control or public_prefix) == prefix and phase ~= 'switched'
end
