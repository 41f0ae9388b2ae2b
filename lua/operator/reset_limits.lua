#!lua flags=allow-oom
--- reset_limits: clear the counters of limits of one identity.
---
--- KEYS[1]   layouts     hash    layouts of all states
--- KEYS[2]   control     stream  operator actions
---
--- ARGV[1]   state       string  prefix of states
--- ARGV[2]   guard       string  prefix of guard records
--- ARGV[3]   leases    string  prefix of the hashes of an identity's leases
--- ARGV[4]   epoch     string  the field of these hashes that is no shard's
--- ARGV[5]   actor     string
--- ARGV[6]   identity  string
--- ARGV[7]   reason    string
--- ARGV[8]   layout    JSON    of its state, as the caller read it
--- ARGV[9]   limits    string  their names with commas; "" to delete further counters of a reset
---                            whose first call has done the rest
--- ARGV[10]  slots     packed  place and length of the numbers of each of them in the state, and of
---                            its ring; see operator/limit_reset.py
--- ARGV[11]  counters  string  how many per token or per capture the whole reset deletes
--- ARGV[12…] names of counters to delete
---
--- Replies  now_us, id of the control event or ""
---        | 0 the layout has changed: nothing was changed
---        | the identity's name, if it is not active: nothing was changed
---
--- A counter is deleted only once, so that later calls of a long reset do not clear new counts.
local layouts_key, control_key = KEYS[1], KEYS[2]
local state_prefix, guard_prefix = ARGV[1], ARGV[2]
local leases, epoch_field = ARGV[3] .. ARGV[6], ARGV[4]
local call, argv = redis.call, ARGV
--% include "operator/include/named_states.lua"
local states, unknown = named_states({ argv[6] })
if not states then return unknown end
if call('HGET', layouts_key, argv[6]) ~= argv[8] then return 0 end
local time = call('TIME')
--% include "operator/include/raise_epoch.lua"
local reply = { string.format('%.0f', time[1] * 1000000 + time[2]), '' }

local function clear(state, first, length)
  -- The part beyond the end was never used.
  length = math.min(length, call('STRLEN', state) - first)
  if length > 0 then call('SETRANGE', state, first, string.rep('\0', length)) end
end

for at = 1, #argv[10], 16 do
  local first, length, ring, ring_length = struct.unpack('<IIII', argv[10], at)
  clear(states[2], first, length)
  clear(states[2], ring, ring_length)
end
for first = 12, #argv, 1000 do
  call('DEL', unpack(argv, first, math.min(first + 999, #argv)))
end
if argv[9] ~= '' then
  -- On a cluster, units that are being returned were charged to the counts of before.
  if call('EXISTS', leases) == 1 then raise_epoch(leases) end
  reply[2] = call('XADD', control_key, '*', 'event', 'reset-limits', 'actor', argv[5],
    'identity', argv[6], 'limits', argv[9], 'counters', argv[11], 'reason', argv[7])
end
return reply
