--- thaw: let identities act again that are suspended, whoever or whatever suspended them.
---
--- KEYS     none
---
--- ARGV[1]  actor  string
--- ARGV[2…] identities  none for all that are active
---
--- Replies  now_us, id of the control event or "", then for each identity: its name, and 1 if it was
---          suspended, else 0 | the name of one that is not active: nothing was changed
---        | nil the prefixes are others by now: nothing was changed
local call, argv = redis.call, ARGV
--% include "operator/include/named_states.lua"
--% include "operator/include/is_in_force.lua"
if not is_in_force() then return false end
local wanted = {}
for i = 2, #argv do wanted[#wanted + 1] = argv[i] end
local states, unknown = named_states(wanted)
if not states then return unknown end
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]

local said, changed = { string.format('%.0f', now_us), '' }, {}
for i = 1, #states, 2 do
  local name, state = states[i], states[i + 1]
  local before = struct.unpack('<d', call('GETRANGE', state, 8, 15))
  local was_suspended = before ~= 0 and not (before > 1 and before <= now_us)
  if before ~= 0 then call('SETRANGE', state, 8, struct.pack('<d', 0)) end
  call('DEL', {{ names.suspension_prefix }} .. name, {{ names.refused_prefix }} .. name)
  if was_suspended then changed[#changed + 1] = name end
  said[#said + 1], said[#said + 2] = name, was_suspended and 1 or 0
end
if changed[1] then
  said[2] = call('XADD', {{ names.control }}, '*', 'event', 'thaw', 'actor', argv[1],
    'identities', table.concat(changed, ','))
end
return said
