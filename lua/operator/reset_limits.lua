--- reset_limits: forget what limits of one identity have counted.
---
--- KEYS     none
---
--- ARGV[1]  actor     string
--- ARGV[2]  identity  string
--- ARGV[3]  reason    string
--- ARGV[4]  layout    JSON    of its state, as the caller read it
--- ARGV[5]  limits    string  their names with commas; "" to delete further counters of a reset
---                            whose first call has done the rest
--- ARGV[6]  slots     packed  place and length of the numbers of each of them in the state, and of
---                            its ring; see operator/limit_reset.py
--- ARGV[7]  counters  string  how many per token or per capture the whole reset deletes
--- ARGV[8…] names of counters to delete
---
--- Replies  now_us, id of the control event or ""
---        | 0 the layout is another by now: nothing was changed
---        | the identity's name, if it is not active: nothing was changed
---        | nil the prefixes are others by now: nothing was changed
---
--- A counter is deleted once, so that a call that counts meanwhile is not forgotten with it twice.
local call, argv = redis.call, ARGV
--% include "operator/include/named_states.lua"
--% include "operator/include/is_in_force.lua"
if not is_in_force() then return false end
local states, unknown = named_states({ argv[2] })
if not states then return unknown end
if call('HGET', {{ names.layouts }}, argv[2]) ~= argv[4] then return 0 end
local time = call('TIME')
local said = { string.format('%.0f', time[1] * 1000000 + time[2]), '' }

local function clear(state, first, length)
  -- What is beyond the end was never used.
  length = math.min(length, call('STRLEN', state) - first)
  if length > 0 then call('SETRANGE', state, first, string.rep('\0', length)) end
end

for at = 1, #argv[6], 16 do
  local first, length, ring, ring_length = struct.unpack('<IIII', argv[6], at)
  clear(states[2], first, length)
  clear(states[2], ring, ring_length)
end
for first = 8, #argv, 1000 do
  call('DEL', unpack(argv, first, math.min(first + 999, #argv)))
end
if argv[5] ~= '' then
  said[2] = call('XADD', {{ names.control }}, '*', 'event', 'reset-limits', 'actor', argv[1],
    'identity', argv[2], 'limits', argv[5], 'counters', argv[7], 'reason', argv[3])
end
return said
