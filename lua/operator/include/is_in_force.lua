-- Whether the prefixes that this script knows are still in force: whoever runs it may not know
-- that they are others by now, and then would have changed nothing that any guard looks at.
local function is_in_force()
  local control, phase = unpack(call('HMGET', sealed_key, 'control', 'phase'))
  return (control or public_prefix) == prefix and phase ~= 'switched'
end
