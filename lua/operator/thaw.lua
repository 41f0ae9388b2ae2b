#!lua flags=allow-oom
--- thaw: end the suspensions of identities, whatever their cause.
---
--- KEYS[1]  layouts     hash    layouts of all states
--- KEYS[2]  control     stream  operator actions
---
--- ARGV[1]  state       string  prefix of states
--- ARGV[2]  guard       string  prefix of guard records
--- ARGV[3]  suspension  string  prefix of records of suspensions
--- ARGV[4]  refused     string  prefix of the lists of a circuit breaker
--- ARGV[5]  actor       string
--- ARGV[6]  at_shards   string  names, separated by commas, that shards of a cluster had suspended
--- ARGV[7]  reason      string  "" for none
--- ARGV[8…] identities          none for all that are active
---
--- Replies  now_us, id of the control event or "", then for each identity: its name, and 1 if it was
---          suspended, else 0 | the name of one that is not active: nothing was changed
local layouts_key, control_key = KEYS[1], KEYS[2]
local state_prefix, guard_prefix, suspension_prefix = ARGV[1], ARGV[2], ARGV[3]
local refused_prefix = ARGV[4]
local call, argv = redis.call, ARGV
--% include "operator/include/named_states.lua"
local wanted = {}
for i = 8, #argv do wanted[#wanted + 1] = argv[i] end
local at_shards = ',' .. argv[6] .. ','
local states, unknown = named_states(wanted)
if not states then return unknown end
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]

local reply, changed = { string.format('%.0f', now_us), '' }, {}
for i = 1, #states, 2 do
  local name, state = states[i], states[i + 1]
  local before = struct.unpack('<d', call('GETRANGE', state, 8, 15))
  local was_suspended = before ~= 0 and not (before > 1 and before <= now_us)
    or string.find(at_shards, ',' .. name .. ',', 1, true)
  if before ~= 0 then call('SETRANGE', state, 8, struct.pack('<d', 0)) end
  call('DEL', suspension_prefix .. name, refused_prefix .. name)
  if was_suspended then changed[#changed + 1] = name end
  reply[#reply + 1], reply[#reply + 2] = name, was_suspended and 1 or 0
end
if changed[1] then
  reply[2] = call('XADD', control_key, '*', 'event', 'thaw', 'actor', argv[5],
    'identities', table.concat(changed, ','), unpack(argv[7] ~= '' and { 'reason', argv[7] } or {}))
end
return reply
