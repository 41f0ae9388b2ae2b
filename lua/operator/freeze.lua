#!lua flags=allow-oom
--- freeze: suspend identities, so that their guards deny every call.
---
--- KEYS[1]   layouts     hash    layouts of all states
--- KEYS[2]   control     stream  operator actions
---
--- ARGV[1]  state       string  prefix of states
--- ARGV[2]  guard       string  prefix of guard records
--- ARGV[3]  suspension  string  prefix of records of suspensions
--- ARGV[4]  latest_us   number  a time from here on is corrupt
--- ARGV[5]  max_reason  number  bytes of a reason
--- ARGV[6]  actor       string
--- ARGV[7]  reason      string  in every denial from now on
--- ARGV[8]  for_ms      string  duration; "" for no end
--- ARGV[9…] identities          none for all that are active
---
--- Replies  now_us, id of the control event or "", then for each identity: its name, the end of its
---          suspension (Unix ms; "" without an end), the reason, and 1 if this call suspended it, 0
---          if another one lasts as long | the name of one that is not active: nothing was changed
---
--- A suspension never ends sooner because of another one: that would resume an identity that another
--- operator stopped.
local layouts_key, control_key = KEYS[1], KEYS[2]
local state_prefix, guard_prefix, suspension_prefix = ARGV[1], ARGV[2], ARGV[3]
local latest_us = tonumber(ARGV[4])
local max_reason_bytes, actor, reason, for_ms = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local call, argv = redis.call, ARGV
--% include "operator/include/named_states.lua"
local wanted = {}
for i = 9, #argv do wanted[#wanted + 1] = argv[i] end
local states, unknown = named_states(wanted)
if not states then return unknown end
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local until_us = for_ms == '' and 1 or now_us + for_ms * 1000
local since_ms, until_ms = string.format('%.0f', now_us / 1000), ''
if until_us > 1 then until_ms = string.format('%.0f', math.ceil(until_us / 1000)) end

local reply, changed = { string.format('%.0f', now_us), '' }, {}
for i = 1, #states, 2 do
  local name, state = states[i], states[i + 1]
  local record = suspension_prefix .. name
  local before = struct.unpack('<d', call('GETRANGE', state, 8, 15))
  -- An invalid time has no end.
  if not (before < latest_us) then before = 1 end
  local lasts = before == 1 or (until_us > 1 and before >= until_us)
  if not lasts then
    call('SETRANGE', state, 8, struct.pack('<d', until_us))
    call('DEL', record)
    call('HSET', record, 'reason', reason, 'by', actor, 'since_ms', since_ms, 'until_ms', until_ms)
    changed[#changed + 1] = name
  end
  local ends_us = lasts and before or until_us
  reply[#reply + 1] = name
  reply[#reply + 1] = ends_us > 1 and string.format('%.0f', math.ceil(ends_us / 1000)) or ''
  reply[#reply + 1] = string.sub(call('HGET', record, 'reason') or '', 1, max_reason_bytes)
  reply[#reply + 1] = lasts and 0 or 1
end
if changed[1] then
  reply[2] = call('XADD', control_key, '*', 'event', 'freeze', 'actor', actor,
    'identities', table.concat(changed, ','), 'reason', reason, 'until_ms', until_ms)
end
return reply
