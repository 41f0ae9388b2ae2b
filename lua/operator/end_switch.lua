--- end_switch: let identities act again, now that all keys are where their guards look for them.
---
--- KEYS     none
---
--- ARGV[1]  actor  string
---
--- Replies  1 | 0 it was done already
local call = redis.call
local kind, phase = unpack(call('HMGET', {{ names.sealed }}, 'change', 'phase'))
if phase ~= 'switched' then return 0 end
for _, name in ipairs(call('HKEYS', {{ names.layouts }})) do
  local state = {{ names.state_prefix }} .. name
  local flag = call('GETRANGE', state, 8, 15)
  if #flag == 8 then
    -- Who was suspended before stays so.
    local suspended = struct.unpack('<d', flag)
    if suspended < 0 then
      suspended = -1 - suspended
    end
    call('SETRANGE', state, 8, struct.pack('<d', suspended))
  end
end
if kind == 'unseal' then
  call('DEL', {{ names.sealed }})
else
  call('HDEL', {{ names.sealed }}, 'change', 'phase', 'from_control', 'from_vault', 'to_control', 'to_vault', 'adopt')
end
call('XADD', {{ names.control }}, '*', 'event', kind, 'actor', ARGV[1])
return 1
