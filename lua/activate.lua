--- activate: make a set of guards the active policy, all or nothing.
---
--- KEYS     none: every name is under the control prefix, compiled in
---
--- ARGV[1]  generation  string  the active one as the caller saw it, "0" if there was none
--- ARGV[2]  load        string  whose staged document, layouts and states are to be used
--- ARGV[3]  actor       string  copied into the control event
--- ARGV[4]  digest      string  of the whole policy
--- ARGV[5]  commands    string  for the guard records, see protocol/learned.py
--- ARGV[6]  summary     JSON    for the control event: identities and digests of their rules
--- ARGV[7…] for each identity: its name, how it changes, and unless that is `kept` or
---          `removed` its digest, batch digest, policy digest and moves, and if it is `staged`
---          what stage.lua answered; see deploy/plan.py
---
--- Replies  generation | LEASH ACTIVATION_CONFLICT active=<generation> | LEASH ACTIVATION_EXPIRED
---
--- The server serves nobody meanwhile. So whatever can be made beforehand is staged, and one
--- command reads or writes the states of many identities.
---
--- Limits are moved by name and not by place: a policy that adds a limit in front of
--- another must not hand the agent a fresh counter.
local call, pack, unpack_struct = redis.call, struct.pack, struct.unpack
--% include "partials/ordered_ring.lua"
--% include "partials/moved_ring.lua"
--% include "partials/moved_tat.lua"
--% include "partials/step_number.lua"
--% include "partials/step_ring.lua"
--% include "partials/moved_state.lua"
--% include "partials/is_unmoved.lua"
local argv = ARGV
local staged = {{ names.staged_prefix }} .. argv[2]
local active = call('HGET', {{ names.policy }}, 'generation') or '0'
if active ~= argv[1] then
  return redis.error_reply('LEASH ACTIVATION_CONFLICT active=' .. active)
end
local generation = active + 1
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]

-- A script that fails does not roll back. So all that can fail comes before the first write:
-- every new state is made, and the loader has seen the types of what is overwritten.
call('XLEN', {{ names.control }})
local words = { kept = 2, removed = 2, stamped = 6, moved = 6, staged = 8 }
local needed, keys, moves, states, ready = { staged .. ':policy', staged .. ':layouts' }, {}, {}, {}, {}
local i = 7
while i < #argv do
  local name, how = argv[i], argv[i + 1]
  if how == 'staged' and is_unmoved({{ names.state_prefix }} .. name, argv[i + 6], argv[i + 7]) then
    ready[name], needed[#needed + 1] = true, staged .. ':state:' .. name
  elseif how == 'moved' or how == 'staged' then
    keys[#keys + 1], moves[#moves + 1] = {{ names.state_prefix }} .. name, argv[i + 5]
  end
  i = i + words[how]
end
for first = 1, #needed, 1000 do
  local last = math.min(first + 999, #needed)
  if call('EXISTS', unpack(needed, first, last)) <= last - first then
    return redis.error_reply('LEASH ACTIVATION_EXPIRED')
  end
end
for first = 1, #keys, 1000 do
  local held = call('MGET', unpack(keys, first, math.min(first + 999, #keys)))
  for n, state in ipairs(held) do
    local place = first + n - 1
    states[place * 2 - 1] = keys[place]
    states[place * 2] = moved_state(moves[place], state, now_us)
  end
end

for first = 1, #states, 2000 do
  call('MSET', unpack(states, first, math.min(first + 1999, #states)))
end
local removed = {}
i = 7
while i < #argv do
  local name, how = argv[i], argv[i + 1]
  local key, record = {{ names.state_prefix }} .. name, {{ names.guard_prefix }} .. name
  if how == 'kept' then
    call('HSET', record, 'generation', generation)
  elseif how == 'removed' then
    -- Stamp 0 is no guard's. What was counted stays for as long as a budget may last.
    removed[#removed + 1] = record
    if call('SETRANGE', key, 0, pack('<d', 0)) > 8 then
      call('PEXPIRE', key, {{ removed_keep_ms }})
    else
      -- There was none.
      removed[#removed + 1] = key
    end
  else
    if ready[name] then
      call('RENAME', staged .. ':state:' .. name, key)
      call('PERSIST', key)
    elseif how == 'stamped' then
      -- As long as it should be, it was there: an evicted one is not made by its stamp alone.
      local stamp, size = unpack_struct('<c8H', argv[i + 5])
      if call('SETRANGE', key, 0, stamp) < size then
        call('SET', key, moved_state(argv[i + 5], false, now_us))
      end
    end
    call('HSET', record, 'digest', argv[i + 2], 'batch_digest', argv[i + 3],
      'policy_digest', argv[i + 4], 'generation', generation, 'commands', argv[5])
  end
  i = i + words[how]
end
for first = 1, #removed, 1000 do
  call('DEL', unpack(removed, first, math.min(first + 999, #removed)))
end
call('HSET', staged .. ':policy', 'activated_ms', string.format('%.0f', now_us / 1000))
call('RENAME', staged .. ':policy', {{ names.policy }})
call('PERSIST', {{ names.policy }})
call('RENAME', staged .. ':layouts', {{ names.layouts }})
call('PERSIST', {{ names.layouts }})
call('XADD', {{ names.control }}, '*', 'event', 'activate', 'actor', argv[3],
  'generation', generation, 'digest', argv[4], 'identities', argv[6])
return generation
