--- undo: give keys back what they held, all of them or none.
---
--- KEYS     none
---
--- ARGV[1]  actor      string
--- ARGV[2]  undo       string  its id, which is the correlation id of its events
--- ARGV[3]  selection  string  what is undone, in the operator's words
--- ARGV[4]  from       string  the oldest event that is undone, <identity>/<id>
--- ARGV[5]  to         string  the newest one
--- ARGV[6…] for each key: its name; digest and expiry of what it holds, as the plan saw it;
---          of what it is to hold, expiry, `value` of a string or `image` of another type, and
---          its bytes or what DUMP said; all "" if it is to be absent
---
--- Replies  {"UNDONE", id, …} of the events that were appended
---        | {"CHANGED", key, …} of those that hold something else than the plan saw
---        | {"REFUSED", key, error} of one that the server does not take; nothing is changed
---
--- A script that fails does not roll back. So all that can fail comes first: every image is made
--- a key of keyleash's own, and every event is appended, before the first key is touched.
local call, pcall, argv = redis.call, redis.pcall, ARGV
--% include "record/digest_of_key.lua"
--% include "operator/include/fields_of_undo.lua"
local trail, own, vault = {{ names.operators }}, {{ names.undo_prefix }}, {{ vault }}
local time = call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local changed = { 'CHANGED' }
for i = 6, #argv, 6 do
  local digest, expires = digest_of(vault .. argv[i], {{ image_max_bytes }}), tonumber(argv[i + 2])
  local has_expired = digest == 'absent' and expires > 0 and expires <= now_ms
  local is_same = digest == argv[i + 1] and (digest == 'absent' or call('PEXPIRETIME', vault .. argv[i]) == expires)
  if not is_same and not has_expired and #changed <= 100 then changed[#changed + 1] = argv[i] end
end
if #changed > 1 then return changed end

local made, events, problem = {}, {}
for i = 6, #argv, 6 do
  local key, place = argv[i], own .. i
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
local seq = call('GET', {{ names.operators_seq }}) or 0
for first = 6, problem and 0 or #argv, {{ 6 * undo_keys_per_event }} do
  local last = math.min(first + {{ 6 * undo_keys_per_event - 1 }}, #argv)
  seq = seq + 1
  local id = pcall('XADD', trail, 'MAXLEN', '~', {{ text(operators_retain) }}, '*', 'seq', seq,
    unpack(fields_of_undo(argv, first, last)))
  if type(id) == 'table' then problem = { 'REFUSED', trail, id.err } break end
  events[#events + 1] = { id = id, first = first, last = last }
end
if not problem then
  local told = pcall('XADD', {{ names.control }}, '*', 'event', 'undo', 'actor', argv[1], 'undo', argv[2],
    'selection', argv[3], 'from', argv[4], 'to', argv[5], 'keys', (#argv - 5) / 6)
  if type(told) == 'table' then problem = { 'REFUSED', {{ names.control }}, told.err } end
end
if problem then
  for _, place in ipairs(made) do call('DEL', place) end
  for _, event in ipairs(events) do call('XDEL', trail, event.id) end
  return problem
end

call('SET', {{ names.operators_seq }}, seq)
local done = { 'UNDONE' }
for _, event in ipairs(events) do
  local afters = {}
  for i = event.first, event.last, 6 do
    local key, place = vault .. argv[i], own .. i
    -- An image whose expiry has passed was not made a key.
    local after = digest_of(place)
    if after == 'absent' then
      call('DEL', key)
    else
      call('RENAME', place, key)
      after = after .. ':' .. string.format('%.0f', call('PEXPIRETIME', key))
    end
    afters[#afters + 1], afters[#afters + 2] = 'after', after
  end
  call('XADD', trail, '*', 'of', event.id, unpack(afters))
  done[#done + 1] = event.id
end
return done
