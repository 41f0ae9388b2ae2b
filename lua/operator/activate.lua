--- activate: make a set of guards the active policy, all or nothing.
---
--- KEYS[1]   policy      hash        the active policy
--- KEYS[2]   history     sorted set  digests of policies by generation
--- KEYS[3]   layouts     hash        layouts of all states
--- KEYS[4]   control     stream      operator actions
---
--- ARGV[1]   staged      string  prefix of staged keys
--- ARGV[2]   state       string  prefix of states
--- ARGV[3]   guard       string  prefix of guard records
--- ARGV[4]   suspension  string  prefix of records of suspensions
--- ARGV[5]   stored      string  prefix of policies in the history
--- ARGV[6]   keep_ms     number  how long the state of a removed identity is stored
--- ARGV[7]   policies    number  in the history
--- ARGV[8]   latest_us   number  a time from here on is corrupt
--- ARGV[9]   generation  string  the active one as the caller saw it, "0" if there was none
--- ARGV[10]  load        string  whose staged document, layouts, guard records and states are
---                              to be used
--- ARGV[11]  actor       string  copied into the control event
--- ARGV[12]  digest      string  of the whole policy
--- ARGV[13]  summary     JSON    for the control event: identities and digests of their rules
--- ARGV[14]  plan        JSON    for the control event: the plan that the operator saw, or ""
--- ARGV[15…] for each way in which identities change: its name, how many do, and for each of
---          them its words as operator/load/preview.py has them: its name, and what its state is made of
---
--- Replies  generation | LEASH ACTIVATION_CONFLICT active=<generation> | LEASH ACTIVATION_EXPIRED
---
--- The server serves no other client meanwhile. So everything possible is staged, and one
--- command reads or writes the states of many identities.
---
--- Limits are moved by name and not by place: a policy that adds a limit in front of
--- another must not hand the agent a fresh counter.
local policy_key, history_key, layouts_key, control_key = unpack(KEYS)
local staged_prefix, state_prefix, guard_prefix = ARGV[1], ARGV[2], ARGV[3]
local suspension_prefix, stored_prefix = ARGV[4], ARGV[5]
local removed_keep_ms, max_policies, latest_us = ARGV[6], ARGV[7], tonumber(ARGV[8])
local call, pack, unpack_struct = redis.call, struct.pack, struct.unpack
--% include "limit/moved_ring.lua"
--% include "operator/include/step_number.lua"
--% include "operator/include/step_ring.lua"
--% include "operator/include/moved_state.lua"
--% include "operator/include/is_unmoved.lua"
local argv = ARGV
local widths = { unchanged = 1, removed = 1, fresh = 2, stamped = 2, moved = 4, staged = 4 }

local function each_change(visit)
  local at = 15
  while at < #argv do
    local how, count = argv[at], argv[at + 1]
    at = at + 2
    for _ = 1, count do
      visit(how, at)
      at = at + widths[how]
    end
  end
end

local staged = staged_prefix .. argv[10]
local active = call('HGET', policy_key, 'generation') or '0'
if active ~= argv[9] then
  return redis.error_reply('LEASH ACTIVATION_CONFLICT active=' .. active)
end
local generation, before = string.format('%.0f', active + 1), call('HGET', policy_key, 'digest') or ''
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]

-- A script that fails does not roll back. So all that can fail comes before the first write:
-- every new state is made, and the loader has seen the types of what is overwritten.
call('XLEN', control_key)
call('ZCARD', history_key)
local needed, keys, places, states = { staged .. ':policy', staged .. ':stored', staged .. ':layouts' }, {}, {}, {}
local is_staged, is_ready, suspensions, records = {}, {}, {}, {}
local fresh, renamed = 0, 0

-- Return a new state with the suspension that is on record: a stopped identity does not resume
-- because its state was lost, or because it left the policy for long.
local function suspended_as_recorded(suspension, state)
  local until_ms = call('HGET', suspension, 'until_ms')
  if not until_ms then return state end
  -- An agent with a circuit breaker may write it: what is no time has no end.
  local until_us = (tonumber(until_ms) or 0) * 1000
  if not (until_us > 1 and until_us < latest_us) then until_us = 1 end
  if until_us > 1 and until_us <= now_us then return state end
  return state:sub(1, 8) .. pack('<d', until_us) .. state:sub(17)
end

local staged_guard, staged_state = staged .. ':guard:', staged .. ':state:'
each_change(function(how, i)
  if how == 'unchanged' or how == 'removed' then return end
  local name = argv[i]
  local key = state_prefix .. name
  renamed = renamed + 1
  records[renamed] = staged_guard .. name
  if how == 'fresh' then
    fresh = fresh + 1
    suspensions[fresh] = suspension_prefix .. name
    states[2 * fresh - 1], states[2 * fresh] = key, argv[i + 1]
  elseif how == 'staged' and is_unmoved(key, argv[i + 2], argv[i + 3]) then
    is_ready[i], needed[#needed + 1] = true, staged_state .. name
  elseif how == 'moved' or how == 'staged' then
    keys[#keys + 1], places[#places + 1], is_staged[key] = key, i, how == 'staged'
  end
end)

local function all_exist(keys)
  for first = 1, #keys, 1000 do
    local last = math.min(first + 999, #keys)
    if call('EXISTS', unpack(keys, first, last)) <= last - first then return false end
  end
  return true
end

if not (all_exist(needed) and all_exist(records)) then
  return redis.error_reply('LEASH ACTIVATION_EXPIRED')
end
-- Hardly anybody is suspended: asking for each alone would take twice as long.
for first = 1, fresh, 1000 do
  local last = math.min(first + 999, fresh)
  if call('EXISTS', unpack(suspensions, first, last)) > 0 then
    for n = first, last do states[2 * n] = suspended_as_recorded(suspensions[n], states[2 * n]) end
  end
end
for first = 1, #keys, 1000 do
  local held = call('MGET', unpack(keys, first, math.min(first + 999, #keys)))
  for n, state in ipairs(held) do
    local key, i = keys[first + n - 1], places[first + n - 1]
    local moved = argv[i + 3]
    if is_staged[key] or state ~= argv[i + 2] then moved = moved_state(argv[i + 1], state, now_us) end
    states[#states + 1], states[#states + 2] = key, moved
  end
end

for first = 1, #states, 2000 do
  call('MSET', unpack(states, first, math.min(first + 1999, #states)))
end
local gone, at = {}, 0
each_change(function(how, i)
  local record = guard_prefix .. argv[i]
  if how == 'unchanged' then return call('HSET', record, 'generation', generation) end
  if how == 'removed' or how == 'stamped' then
    -- Stamp 0 is no guard's. What was counted stays for as long as a budget may last.
    local key = state_prefix .. argv[i]
    local size = call('SETRANGE', key, 0, how == 'stamped' and argv[i + 1] or pack('<d', 0))
    -- A stamp alone is no state: there was none, and what is lost stops its identity.
    if size == 8 then
      gone[#gone + 1] = key
    elseif how == 'removed' then
      call('PEXPIRE', key, removed_keep_ms)
    end
  elseif is_ready[i] then
    local key = state_prefix .. argv[i]
    call('RENAME', staged_state .. argv[i], key)
    call('PERSIST', key)
  end
  if how == 'removed' then gone[#gone + 1] = record return end
  at = at + 1
  call('RENAME', records[at], record)
end)
for first = 1, #gone, 1000 do
  call('DEL', unpack(gone, first, math.min(first + 999, #gone)))
end
local stored = stored_prefix .. argv[12]
for from, to in pairs({ policy = policy_key, stored = stored }) do
  call('HSET', staged .. ':' .. from, 'activated_ms', string.format('%.0f', now_us / 1000))
  call('RENAME', staged .. ':' .. from, to)
  call('PERSIST', to)
end
call('ZADD', history_key, generation, argv[12])
for _, digest in ipairs(call('ZRANGE', history_key, 0, -1 - max_policies)) do
  call('DEL', stored_prefix .. digest)
  call('ZREM', history_key, digest)
end
call('RENAME', staged .. ':layouts', layouts_key)
call('PERSIST', layouts_key)
local event = { 'event', 'activate', 'actor', argv[11], 'generation', generation, 'from', before,
  'digest', argv[12], 'identities', argv[13] }
if argv[14] ~= '' then
  event[#event + 1], event[#event + 2] = 'plan', argv[14]
end
call('XADD', control_key, '*', unpack(event))
return active + 1
