-- run_item: run a command of a batch if the commands before it left enough of the allowed work.
-- in:  odd, expiring, works, i, weighed, argv, name_at, stop, weigh, names, olds, run, unheard
-- out: changed, held, odd, ran, reply, sizes, took, usages
--
-- `ran` is the work of the commands before, as their replies and sizes show it; `changed` says
-- whether one of them may have changed a key; `took` is the work of this one.
local reply
local took = works and works[i] or 0
--% if plans
local held, longest = weighed and weighed[i], 0
local is_weighed = held
--% if reading
if ran > {{ work_limit / 8 }} and not held and ran <= {{ work_limit }} and find({{ reading }}, ',' .. argv[name_at] .. ',', 1, true) then
  -- Strings turned out to be long, so the next one is asked about.
  held = { unpack(argv, name_at + 1, argv[name_at] == 'MGET' and stop or name_at + 1) }
--% if gets
  if argv[name_at] == 'SET' and not (olds and olds[i]) then held = nil end
--% endif
end
--% endif
if held and ran <= {{ work_limit }} and (changed or not is_weighed) then
  -- Commands of this batch may have changed the sizes that were estimated, if any were.
  local work, asked = weigh(names and names[i] or argv[name_at], argv, name_at, stop, held, {{ work_limit }} - ran)
  took, ran = math.max(took, work), ran + asked
elseif held and ran > {{ work_limit / 2 }} and ran <= {{ work_limit }} then
  -- One more reply of long elements would be too much.
  local usage = run('MEMORY', 'USAGE', held[1] or '')
  longest = (type(usage) == 'number' and usage or usage and math.huge or 0) * {{ string_work }}
end
--% endif
--% if (reply_limits or counts_bytes) and not sandbox
if {{ counts_item }} then
--% include "limit/check_replies.lua"
end
--% endif
--% if has_indexes
--% if not plans
local held
--% endif
local search, began = searches and searches[i], os.clock()
held = held or search
--% endif
if false then
--% if (reply_limits or counts_bytes) and not sandbox
elseif {{ counts_item }} and code and ({{ omitted }} or find({{ returning }}, ',' .. argv[name_at] .. ',', 1, true)) then
  took = 0
  reply = { err = 'LEASH ' .. code .. ' limit=' .. value }
  if code == 'RATE_LIMITED' then
    reply.err = reply.err .. string.format(' retry_after_ms=%.0f', math.ceil((at_us - now_us) / 1000))
  elseif code == 'BUDGET_EXHAUSTED' then
    reply.err = reply.err .. string.format(' resets_at_ms=%.0f', math.ceil(at_us / 1000))
  end
--% endif
--% if running
elseif odd then
  -- A command of a run, which was carried out.
  reply, odd = odd, nil
--% endif
-- A command that only writes was checked and runs: a batch makes all allowed changes.
elseif not (ran + {{ most_taken }} <= {{ work_limit }}) and ({{ omitted }} or held or find({{ returning }}, ',' .. argv[name_at] .. ',', 1, true)) then
  ran, took = math.min(ran + {{ most_taken }}, 1e15), 0
  reply = { err = string.format('LEASH WORK_TOO_LARGE command=%s work=%.0f limit=%.0f', (string.gsub(argv[name_at], '[^%w]', '_')), ran, {{ work_limit }}) }
else
--% if has_indexes
  reply = run(unpack(search or argv, search and 1 or name_at, search and #search or stop))
  -- No estimate has the time of a search.
  if search then ran = ran + (os.clock() - began) * 1e7 end
--% else
  reply = run(unpack(argv, name_at, stop))
--% endif
--% if values.rules.ttl and governing
  if expiring and expiring[i] then
    local expiring = expiring[i]
--% include "reply/set_expiry.lua"
  end
--% endif
--% if plans
  if held and type(reply) == 'number' and reply > 0 and (find(argv[name_at], '^GEO') or find(argv[name_at], 'ESTORE$')) then
    -- No reply shows how long the members are that were stored.
    local usage = run('MEMORY', 'USAGE', held[find(argv[name_at], '^GEORAD') and #held or 1] or '', 'SAMPLES', reply)
    if type(usage) == 'number' then took = math.max(took, usage * {{ 2 * string_work }}) end
  end
  if not unheard[i] then usages, sizes, changed = nil, nil, true end
--% endif
end
