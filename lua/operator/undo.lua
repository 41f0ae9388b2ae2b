--- undo: restore what keys held, all of them or none.
---
--- KEYS[1]  stream     stream  the audit stream of undos
--- KEYS[2]  seq        string  number of its newest event
--- KEYS[3]  control    stream  operator actions
---
--- ARGV[1]  vault      string  prefix of the keys of agents
--- ARGV[2]  undo       string  prefix of the keys that before-images become for a moment
--- ARGV[3]  max_bytes  number  a larger value is not read
--- ARGV[4]  keys       number  of one event
--- ARGV[5]  retain     number  of events in the audit stream
--- ARGV[6]  actor      string
--- ARGV[7]  undo       string  its id, which is the correlation id of its events
--- ARGV[8]  selection  string  what is undone, in the operator's words
--- ARGV[9]  from       string  the oldest event that is undone, <identity>/<id>
--- ARGV[10]  to         string  the newest one
--- ARGV[11…] for each key: its name; digest and expiry of what it holds, as the plan saw it;
---          of what it is to hold, expiry, `value` of a string or `image` of another type, and
---          its bytes or what DUMP returned; all "" if it is to be absent
---
--- Replies  {"UNDONE", id, …} of the events that were appended
---        | {"CHANGED", key, …} of those that hold something else than the plan saw
---        | {"REFUSED", key, error} of one that the server does not take; nothing is changed
---
--- A script that fails does not roll back. So all that can fail comes first: every before-image becomes
--- a key of keyleash's own, and every event is appended, before the first key is touched.
local stream, seq_key, control_key = KEYS[1], KEYS[2], KEYS[3]
local vault, undo_prefix, max_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3])
local keys_per_event, retain = tonumber(ARGV[4]), ARGV[5]
local call, pcall, argv = redis.call, redis.pcall, ARGV
--% include "record/digest_of_key.lua"
--% include "operator/include/fields_of_undo.lua"
local time = call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local changed = { 'CHANGED' }
for i = 11, #argv, 6 do
  local digest, expires = digest_of(vault .. argv[i], max_bytes), tonumber(argv[i + 2])
  local has_expired = digest == 'absent' and expires > 0 and expires <= now_ms
  local is_same = digest == argv[i + 1] and (digest == 'absent' or call('PEXPIRETIME', vault .. argv[i]) == expires)
  if not is_same and not has_expired and #changed <= 100 then changed[#changed + 1] = argv[i] end
end
if #changed > 1 then return changed end

local made, events, problem = {}, {}
for i = 11, #argv, 6 do
  local key, place = argv[i], undo_prefix .. i
  if argv[i + 4] ~= '' then
    made[#made + 1] = place
    local expires = math.max(tonumber(argv[i + 3]), 0)
    if argv[i + 4] == 'image' then
      problem = pcall('RESTORE', place, expires, argv[i + 5], 'ABSTTL', 'REPLACE').err
    elseif expires == 0 then
      problem = pcall('SET', place, argv[i + 5]).err
    else
      problem = pcall('SET', place, argv[i + 5], 'PXAT', string.format('%.0f', expires)).err
    end
  end
  -- Who may read a key need not be one who may replace it.
  if not (redis.acl_check_cmd('RENAME', place, vault .. key) and redis.acl_check_cmd('DEL', vault .. key)) then
    problem = 'NOPERM the user may not replace it'
  end
  if problem then problem = { 'REFUSED', key, problem } break end
end
local seq = call('GET', seq_key) or 0
for first = 11, problem and 0 or #argv, 6 * keys_per_event do
  local last = math.min(first + 6 * keys_per_event - 1, #argv)
  seq = seq + 1
  local id = pcall('XADD', stream, 'MAXLEN', '~', retain, '*', 'seq', seq,
    unpack(fields_of_undo(argv[6], argv[7], argv, first, last)))
  if type(id) == 'table' then problem = { 'REFUSED', stream, id.err } break end
  events[#events + 1] = { id = id, first = first, last = last }
end
if not problem then
  local added = pcall('XADD', control_key, '*', 'event', 'undo', 'actor', argv[6], 'undo', argv[7],
    'selection', argv[8], 'from', argv[9], 'to', argv[10], 'keys', (#argv - 10) / 6)
  if type(added) == 'table' then problem = { 'REFUSED', control_key, added.err } end
end
if problem then
  for _, place in ipairs(made) do call('DEL', place) end
  for _, event in ipairs(events) do call('XDEL', stream, event.id) end
  return problem
end

call('SET', seq_key, seq)
local done = { 'UNDONE' }
for _, event in ipairs(events) do
  local afters = {}
  for i = event.first, event.last, 6 do
    local key, place = vault .. argv[i], undo_prefix .. i
    -- A before-image whose expiry has passed did not become a key.
    local after = digest_of(place)
    if after == 'absent' then
      call('DEL', key)
    else
      call('RENAME', place, key)
      after = after .. ':' .. string.format('%.0f', call('PEXPIRETIME', key))
    end
    afters[#afters + 1], afters[#afters + 2] = 'after', after
  end
  call('XADD', stream, '*', 'of', event.id, unpack(afters))
  done[#done + 1] = event.id
end
return done
