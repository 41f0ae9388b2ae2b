--- undo: restore what keys held, all of them or none; on a cluster, of the keys of one node.
---
--- KEYS[1]  stream     stream  the audit stream of undos
--- KEYS[2]  seq        string  number of its newest event
--- KEYS[3]  control    stream  operator actions; none at a shard, as the home has that stream
---
--- ARGV[1]  max_bytes  number  a larger value is not read
--- ARGV[2]  keys       number  of one event
--- ARGV[3]  retain     number  of events in the audit stream
--- ARGV[4]  actor      string
--- ARGV[5]  undo       string  its id, which is the correlation id of its events
--- ARGV[6]  selection  string  what is undone, in the operator's words
--- ARGV[7]  from       string  the oldest event that is undone, <identity>/<id>
--- ARGV[8]  to         string  the newest one
--- ARGV[9…]  for each key: its name; the key that the before-image becomes for
---          a moment, in the same slot; digest and expiry of what it holds, as the plan saw it;
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
local max_bytes, keys_per_event, retain = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local call, pcall, argv = redis.call, redis.pcall, ARGV
-- Between keys of two slots, as Redis 8.0 looks for a key of a slot that moves in that of the last
-- command with a key.
local function leave_slot()
  if not control_key then call('TIME') end
end
--% include "record/digest_of_key.lua"
--% include "operator/include/fields_of_undo.lua"
local time = call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local changed = { 'CHANGED' }
for i = 9, #argv, 7 do
  leave_slot()
  local key, expires = argv[i], tonumber(argv[i + 3])
  local digest = digest_of(key, max_bytes)
  local has_expired = digest == 'absent' and expires > 0 and expires <= now_ms
  local is_same = digest == argv[i + 2] and (digest == 'absent' or call('PEXPIRETIME', key) == expires)
  if not is_same and not has_expired and #changed <= 100 then changed[#changed + 1] = argv[i] end
end
if #changed > 1 then return changed end

local made, events, problem = {}, {}
for i = 9, #argv, 7 do
  local key, place = argv[i], argv[i + 1]
  leave_slot()
  if argv[i + 5] ~= '' then
    made[#made + 1] = place
    local expires = math.max(tonumber(argv[i + 4]), 0)
    if argv[i + 5] == 'image' then
      problem = pcall('RESTORE', place, expires, argv[i + 6], 'ABSTTL', 'REPLACE').err
    elseif expires == 0 then
      problem = pcall('SET', place, argv[i + 6]).err
    else
      problem = pcall('SET', place, argv[i + 6], 'PXAT', string.format('%.0f', expires)).err
    end
  end
  -- Who may read a key need not be one who may replace it.
  if not (redis.acl_check_cmd('RENAME', place, key) and redis.acl_check_cmd('DEL', key)) then
    problem = 'NOPERM the user may not replace it'
  end
  if problem then problem = { 'REFUSED', argv[i], problem } break end
end
leave_slot()
local seq = call('GET', seq_key) or 0
for first = 9, problem and 0 or #argv, 7 * keys_per_event do
  local last = math.min(first + 7 * keys_per_event - 1, #argv)
  local fields = fields_of_undo(argv[4], argv[5], argv, first, last)
  seq = seq + 1
  local id = pcall('XADD', stream, 'MAXLEN', '~', retain, '*', 'seq', seq, unpack(fields))
  if type(id) == 'table' then problem = { 'REFUSED', stream, id.err } break end
  events[#events + 1] = { id = id, first = first, last = last }
end
if not problem and control_key then
  local added = pcall('XADD', control_key, '*', 'event', 'undo', 'actor', argv[4], 'undo', argv[5],
    'selection', argv[6], 'from', argv[7], 'to', argv[8], 'keys', (#argv - 8) / 7)
  if type(added) == 'table' then problem = { 'REFUSED', control_key, added.err } end
end
if problem then
  for _, place in ipairs(made) do
    leave_slot()
    call('DEL', place)
  end
  leave_slot()
  for _, event in ipairs(events) do call('XDEL', stream, event.id) end
  return problem
end

call('SET', seq_key, seq)
local done = { 'UNDONE' }
for _, event in ipairs(events) do
  local afters = {}
  for i = event.first, event.last, 7 do
    local key, place = argv[i], argv[i + 1]
    leave_slot()
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
  leave_slot()
  call('XADD', stream, '*', 'of', event.id, unpack(afters))
  done[#done + 1] = event.id
end
return done
