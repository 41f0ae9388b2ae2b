--- suspend: make an identity's guard refuse every call, or let it act again.
---
--- KEYS     none
---
--- ARGV[1]  identity  string
--- ARGV[2]  flag      string  "1" to suspend, "0" to resume
--- ARGV[3]  actor     string
---
--- Replies  1 changed | 0 it was so already | nil no such identity is active
local state = {{ names.state_prefix }} .. ARGV[1]
if redis.call('EXISTS', {{ names.guard_prefix }} .. ARGV[1], state) ~= 2 then return false end
-- What stands where a state was before the prefixes changed is none.
if redis.call('STRLEN', state) < 16 then return false end
local flag = struct.pack('<d', ARGV[2] + 0)
if redis.call('GETRANGE', state, 8, 15) == flag then return 0 end
redis.call('SETRANGE', state, 8, flag)
redis.call('XADD', {{ names.control }}, '*', 'event', ARGV[2] == '1' and 'suspend' or 'resume',
  'actor', ARGV[3], 'identity', ARGV[1])
return 1
