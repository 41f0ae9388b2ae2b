--- activate: make a set of guards the active policy, all or nothing.
---
--- KEYS     none: every name is under the control prefix, compiled in
---
--- ARGV[1]  generation  string  the active one as the caller saw it, "0" if there was none
--- ARGV[2]  load        string  whose staged document, layouts, guard records and states are
---                              to be used
--- ARGV[3]  actor       string  copied into the control event
--- ARGV[4]  digest      string  of the whole policy
--- ARGV[5]  summary     JSON    for the control event: identities and digests of their rules
--- ARGV[6]  plan        JSON    for the control event: what whoever activates it was shown, or ""
--- ARGV[7…] for each way in which identities change: its name, how many do, and for each of
---          them its words as operator/load/plan.py has them: its name, and what its state is made of
---
--- Replies  generation | LEASH ACTIVATION_CONFLICT active=<generation> | LEASH ACTIVATION_EXPIRED
---
--- The server serves nobody meanwhile. So whatever can be made beforehand is staged, and one
--- command reads or writes the states of many identities.
---
--- Limits are moved by name and not by place: a policy that adds a limit in front of
--- another must not hand the agent a fresh counter.
local call, pack, unpack_struct = redis.call, struct.pack, struct.unpack
--% include "limit/moved_ring.lua"
--% include "operator/include/step_number.lua"
--% include "operator/include/step_ring.lua"
--% include "operator/include/moved_state.lua"
--% include "operator/include/is_unmoved.lua"
local argv = ARGV
local widths = { kept = 1, removed = 1, fresh = 2, stamped = 2, moved = 4, staged = 4 }

local function each_change(visit)
  local at = 7
  while at < #argv do
    local how, count = argv[at], argv[at + 1]
    at = at + 2
    for _ = 1, count do
      visit(how, at)
      at = at + widths[how]
    end
  end
end

local staged = {{ names.staged_prefix }} .. argv[2]
local active = call('HGET', {{ names.policy }}, 'generation') or '0'
-- Whoever prepared this may not know that the prefixes are others now, or about to be.
local control, change = unpack(call('HMGET', {{ names.sealed }}, 'control', 'phase'))
if active ~= argv[1] or (control or {{ public_prefix }}) ~= {{ names.prefix }} or change == 'switched' then
  return redis.error_reply('LEASH ACTIVATION_CONFLICT active=' .. active)
end
local generation, before = string.format('%.0f', active + 1), call('HGET', {{ names.policy }}, 'digest') or ''
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]

-- A script that fails does not roll back. So all that can fail comes before the first write:
-- every new state is made, and the loader has seen the types of what is overwritten.
call('XLEN', {{ names.control }})
call('ZCARD', {{ names.history }})
local needed, keys, places, states = { staged .. ':policy', staged .. ':kept', staged .. ':layouts' }, {}, {}, {}
local is_staged, is_ready, suspensions, records = {}, {}, {}, {}
local fresh, renamed = 0, 0

--- A state that there was not, suspended as its identity is on record: whoever was stopped does
--- not act again because its state was lost, or because it left the policy for long.
local function suspended_as_recorded(suspension, state)
  local until_ms = call('HGET', suspension, 'until_ms')
  if not until_ms then return state end
  -- An agent with a circuit breaker may write it: what is no time has no end.
  local until_us = (tonumber(until_ms) or 0) * 1000
  if not (until_us > 1 and until_us < {{ latest_us }}) then until_us = 1 end
  if until_us > 1 and until_us <= now_us then return state end
  return state:sub(1, 8) .. pack('<d', until_us) .. state:sub(17)
end

local staged_guard, staged_state = staged .. ':guard:', staged .. ':state:'
each_change(function(how, i)
  if how == 'kept' or how == 'removed' then return end
  local name = argv[i]
  local key = {{ names.state_prefix }} .. name
  renamed = renamed + 1
  records[renamed] = staged_guard .. name
  if how == 'fresh' then
    fresh = fresh + 1
    suspensions[fresh] = {{ names.suspension_prefix }} .. name
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
  local record = {{ names.guard_prefix }} .. argv[i]
  if how == 'kept' then return call('HSET', record, 'generation', generation) end
  if how == 'removed' or how == 'stamped' then
    -- Stamp 0 is no guard's. What was counted stays for as long as a budget may last.
    local key = {{ names.state_prefix }} .. argv[i]
    local size = call('SETRANGE', key, 0, how == 'stamped' and argv[i + 1] or pack('<d', 0))
    -- A stamp alone is no state: there was none, and what is lost stops its identity.
    if size == 8 then
      gone[#gone + 1] = key
    elseif how == 'removed' then
      call('PEXPIRE', key, {{ removed_keep_ms }})
    end
  elseif is_ready[i] then
    local key = {{ names.state_prefix }} .. argv[i]
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
local kept = {{ names.kept_prefix }} .. argv[4]
for from, to in pairs({ policy = {{ names.policy }}, kept = kept }) do
  call('HSET', staged .. ':' .. from, 'activated_ms', string.format('%.0f', now_us / 1000))
  call('RENAME', staged .. ':' .. from, to)
  call('PERSIST', to)
end
call('ZADD', {{ names.history }}, generation, argv[4])
for _, digest in ipairs(call('ZRANGE', {{ names.history }}, 0, -1 - {{ kept_policies }})) do
  call('DEL', {{ names.kept_prefix }} .. digest)
  call('ZREM', {{ names.history }}, digest)
end
call('RENAME', staged .. ':layouts', {{ names.layouts }})
call('PERSIST', {{ names.layouts }})
local event = { 'event', 'activate', 'actor', argv[3], 'generation', generation, 'from', before,
  'digest', argv[4], 'identities', argv[5] }
if argv[6] ~= '' then
  event[#event + 1], event[#event + 2] = 'plan', argv[6]
end
call('XADD', {{ names.control }}, '*', unpack(event))
return active + 1
