--- activate: make a set of guards the active policy, all or nothing.
---
--- KEYS     none: every name is under the control prefix, compiled in
---
--- ARGV[1]  generation  string  the active one as the caller saw it, "0" if there was none
--- ARGV[2]  actor       string  copied into the control event
--- ARGV[3]  digest      string  of the whole policy
--- ARGV[4]  document    string  the policy file's text
--- ARGV[5]  plan        JSON    identities and their limits, see deploy/plan.py
---
--- Replies  generation | LEASH ACTIVATION_CONFLICT active=<generation>
---
--- Limits are moved by name and not by place: a policy that adds a limit in front of
--- another must not hand the agent a fresh counter.
local call, pack, unpack_struct = redis.call, struct.pack, struct.unpack
--% include "partials/ordered_ring.lua"
--% include "partials/moved_ring.lua"
--% include "partials/moved_tat.lua"
local active = call('HGET', {{ names.policy }}, 'generation') or '0'
if active ~= ARGV[1] then
  return redis.error_reply('LEASH ACTIVATION_CONFLICT active=' .. active)
end
local generation = active + 1
local plan = cjson.decode(ARGV[5])
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]

local function moved_limit(limit, state)
  local from = limit.from ~= cjson.null and state and limit.from
  if limit.kind == 'budget' then
    local ends_us, used = 0, 0
    if from then ends_us, used = unpack_struct('<dd', state, from.index * 8 + 1) end
    -- The window that is open stays open, with its count, until the new calendar ends it.
    if now_us >= ends_us then return pack('<dd', 0, 0), '' end
    local window_end_us = limit.window_end_us
    -- Of one calendar, the later end: a clock that went back must not open a window again.
    if limit.calendar == from.calendar then window_end_us = math.max(window_end_us, ends_us) end
    return pack('<dd', window_end_us, used), ''
  elseif limit.kind == 'gcra' then
    return pack('<d', from and moved_tat(limit, from, state, now_us) or 0), ''
  end
  return pack('<d', 0), from and moved_ring(limit, from, state, now_us) or ''
end

-- A script that fails does not roll back. So all that can fail comes before the first write:
-- every record is touched as the type that it must have, every new state is made.
call('HLEN', {{ names.layouts }})
call('XLEN', {{ names.control }})
local states = {}
for i, identity in ipairs(plan.identities) do
  call('HLEN', {{ names.guard_prefix }} .. identity.name)
  local state = call('GET', {{ names.state_prefix }} .. identity.name)
  -- A guard that did not change keeps its state as it is.
  if not state or unpack_struct('<d', state) ~= identity.stamp then
    local numbers, rings, suspended, has_calls = {}, {}, 0, false
    if state then suspended = unpack_struct('<d', state, 9) end
    for place, limit in ipairs(identity.limits) do
      local ring
      numbers[place], ring = moved_limit(limit, state)
      has_calls = has_calls or ring ~= ''
      rings[place] = ring .. string.rep('\0', limit.capacity * 8 - #ring)
    end
    states[i] = pack('<dd', identity.stamp, suspended) .. table.concat(numbers)
    if has_calls then states[i] = states[i] .. table.concat(rings) end
  end
end

for i, identity in ipairs(plan.identities) do
  if states[i] then call('SET', {{ names.state_prefix }} .. identity.name, states[i]) end
  call('HSET', {{ names.layouts }}, identity.name, identity.layout)
  call('HSET', {{ names.guard_prefix }} .. identity.name, 'digest', identity.digest,
    'batch_digest', identity.batch_digest, 'policy_digest', identity.policy_digest,
    'generation', generation, 'commands', plan.commands)
end
for _, name in ipairs(plan.removed) do
  -- Stamp 0 is no guard's. What was counted stays for as long as a budget may last.
  local key = {{ names.state_prefix }} .. name
  if call('EXISTS', key) == 1 then
    call('SETRANGE', key, 0, pack('<d', 0))
    call('PEXPIRE', key, {{ removed_keep_ms }})
  end
  call('DEL', {{ names.guard_prefix }} .. name)
end
call('HSET', {{ names.policy }}, 'generation', generation, 'digest', ARGV[3], 'document', ARGV[4],
  'actor', ARGV[2], 'activated_ms', string.format('%.0f', now_us / 1000))
call('XADD', {{ names.control }}, '*', 'event', 'activate', 'actor', ARGV[2],
  'generation', generation, 'digest', ARGV[3], 'identities', plan.summary)
return generation
