--- end_switch: resume all identities after all keys were moved to the new prefixes.
---
--- KEYS[1]  sealed   hash    the prefixes in force
--- KEYS[2]  layouts  hash    layouts of all states
--- KEYS[3]  control  stream  operator actions
---
--- ARGV[1]  state    string  prefix of states
--- ARGV[2]  actor  string
---
--- Replies  1 | 0 it was done already
local sealed_key, layouts_key, control_key, state_prefix = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local call = redis.call
local kind, phase = unpack(call('HMGET', sealed_key, 'change', 'phase'))
if phase ~= 'switched' then return 0 end
for _, name in ipairs(call('HKEYS', layouts_key)) do
  local state = state_prefix .. name
  local flag = call('GETRANGE', state, 8, 15)
  if #flag == 8 then
    -- An identity that was suspended before stays suspended.
    local suspended = struct.unpack('<d', flag)
    if suspended < 0 then
      suspended = -1 - suspended
    end
    call('SETRANGE', state, 8, struct.pack('<d', suspended))
  end
end
if kind == 'unseal' then
  call('DEL', sealed_key)
else
  call('HDEL', sealed_key, 'change', 'phase', 'from_control', 'from_vault', 'to_control', 'to_vault', 'adopt')
end
call('XADD', control_key, '*', 'event', kind, 'actor', ARGV[2])
return 1
