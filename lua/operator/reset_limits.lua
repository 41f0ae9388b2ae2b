#!lua flags=allow-oom
--- reset_limits: clear the counters of limits of one identity.
---
--- KEYS[1]   sealed      hash    the prefixes in force
--- KEYS[2]   layouts     hash    layouts of all states
--- KEYS[3]   control     stream  operator actions
---
--- ARGV[1]   prefix      string  of the control keys, as the caller knows it
--- ARGV[2]   public      string  the prefix without a record in `sealed`
--- ARGV[3]   state       string  prefix of states
--- ARGV[4]   guard       string  prefix of guard records
--- ARGV[5]   leases    string  prefix of the hashes of an identity's leases
--- ARGV[6]   epoch     string  the field of these hashes that is no shard's
--- ARGV[7]   actor     string
--- ARGV[8]   identity  string
--- ARGV[9]   reason    string
--- ARGV[10]  layout    JSON    of its state, as the caller read it
--- ARGV[11]  limits    string  their names with commas; "" to delete further counters of a reset
---                            whose first call has done the rest
--- ARGV[12]  slots     packed  place and length of the numbers of each of them in the state, and of
---                            its ring; see operator/limit_reset.py
--- ARGV[13]  counters  string  how many per token or per capture the whole reset deletes
--- ARGV[14…] names of counters to delete
---
--- Replies  now_us, id of the control event or ""
---        | 0 the layout has changed: nothing was changed
---        | the identity's name, if it is not active: nothing was changed
---        | nil the prefixes have changed: nothing was changed
---
--- A counter is deleted only once, so that later calls of a long reset do not clear new counts.
local sealed_key, layouts_key, control_key = KEYS[1], KEYS[2], KEYS[3]
local prefix, public_prefix, state_prefix, guard_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local leases, epoch_field = ARGV[5] .. ARGV[8], ARGV[6]
local call, argv = redis.call, ARGV
--% include "operator/include/named_states.lua"
--% include "operator/include/require_in_force.lua"
local states, unknown = named_states({ argv[8] })
if not states then return unknown end
if call('HGET', layouts_key, argv[8]) ~= argv[10] then return 0 end
local time = call('TIME')
--% include "operator/include/raise_epoch.lua"
local reply = { string.format('%.0f', time[1] * 1000000 + time[2]), '' }

local function clear(state, first, length)
  -- The part beyond the end was never used.
  length = math.min(length, call('STRLEN', state) - first)
  if length > 0 then call('SETRANGE', state, first, string.rep('\0', length)) end
end

for at = 1, #argv[12], 16 do
  local first, length, ring, ring_length = struct.unpack('<IIII', argv[12], at)
  clear(states[2], first, length)
  clear(states[2], ring, ring_length)
end
for first = 14, #argv, 1000 do
  call('DEL', unpack(argv, first, math.min(first + 999, #argv)))
end
if argv[11] ~= '' then
  -- On a cluster, units that are being returned were charged to the counts of before.
  if call('EXISTS', leases) == 1 then raise_epoch(leases) end
  reply[2] = call('XADD', control_key, '*', 'event', 'reset-limits', 'actor', argv[7],
    'identity', argv[8], 'limits', argv[11], 'counters', argv[13], 'reason', argv[9])
end
return reply
