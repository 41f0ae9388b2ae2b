--- batch: judge many commands of one identity in one call and run those that may.
---
--- KEYS      the data keys of all commands, in their order
---
--- ARGV[1]   token        string
--- ARGV[2]   correlation  string  copied into events, up to 256 bytes
--- ARGV[3]   protocol     string  "2" or "3": the RESP version of the caller's connection
--- ARGV[4]   mode         string  "each": a refusal stands in its command's place
---                                "all": one refusal refuses the whole, and nothing runs
--- ARGV[5…]  for each command: how many arguments it has with its name, its name in upper
---           case, its arguments
---
--- Replies   an array of the commands' own replies, or refusals | LEASH <CODE> key=value …
---
--- Token, clock, state and limits are read and written once. All commands are judged before
--- the first one runs, and one event lists those that change something.
local call, find, type, unpack, tonumber = redis.call, string.find, type, unpack, tonumber
local keys, argv = KEYS, ARGV
local token, correlation, protocol, mode = argv[1] or '', argv[2] or '', argv[3], argv[4]
local code, detail, value, amount, reason, at_us, token_id, key, now_us, item
local command = 'BATCH'
--% if breaker
local suspends
--% endif
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
--% include "authenticate.lua"
  if code then break end
  if mode ~= 'each' and mode ~= 'all' then
    code, detail, value = 'COMMAND_REFUSED', 'mode', mode or ''
    break
  end
--% for limit in limits
--% filter numbered(limit.number)
--% if limit.subject != "identity"
  local counted_n = {}
--% elif limit.slot.kind == "ring"
  local taken_n = 0
--% endif
--% endfilter
--% endfor
  -- One event for all: its own fields, then for each command that is recorded its name and its
  -- key; with several keys, their number behind the name, and netstrings.
  local entry, event = { 'XADD', {{ names.audit }}, '*', 'seq', sequence + 1, 'token', token_id, 'policy', '', 'correlation', correlation }
  local header, passed, passed_reads, passed_writes, passed_deletes = #entry, 0, 0, 0, 0
--% if masks
--% include "record/mask_key.lua"
  local hidden = {}
--% endif
--% if images
  local imaged, imaged_bound = {}, {}
--% endif
--% if hard_max is not none
  local is_full
--% endif
  local fields = header
  -- By the commands' numbers: the replies, and what is not as usual about some of them: that
  -- their reply depends on the protocol, how it is mended, their full name, that they are in no event.
  local replies, typeds, mends, names, unheard = {}, {}, {}, {}, {}
--% if plans or lengthening
  -- Work so far, and that of asking for sizes; by the commands' numbers, their work, and the keys
  -- of those whose work was estimated.
  local spent, asks, works, weighed = 0, 0, {}, {}
--% if lengthening
  -- The lengths of strings that commands so far have made.
  local lengths = {}
--% endif
--% if plans
--% include "authorize/estimate_work.lua"
--% endif
--% endif
  local count, passed_over, n, stop = 0, 0, 0, 4
  while argv[stop + 1] do
    n = n + 1
    command, key = 'BATCH', nil
    local size_at, name_at = stop + 1, stop + 2
    local size = tonumber(argv[size_at]) or 0
    stop = size_at + size
    if size < 1 or not argv[stop] then
      code, detail, value, item = 'COMMAND_REFUSED', 'size', argv[size_at], n
      break
    end
    if n > {{ max_batch_commands }} then code, detail, value = 'ARGS_TOO_MANY', 'commands', n .. '' break end
    if stop - 4 - n > {{ max_arguments }} then
      code, detail, value = 'ARGS_TOO_MANY', 'arguments', stop - 4 - n .. ''
      break
    end
    -- A number from here on: the place where the command ends.
    argv[size_at] = stop
    command = argv[name_at]
    repeat
--% include "authorize.lua"
      if code then break end
--% include "authorize/accept_item.lua"
    until true
    if code then
      if mode == 'all' then item = n break end
--% include "reply/deny.lua"
      replies[n], unheard[n] = { err = line }, true
      code, detail, value, amount, reason = nil, nil, nil, nil, nil
    end
  end
  if mode == 'all' and not code and keys[count + 1] then code, command, key = 'KEYS_MISMATCH', 'BATCH', nil end
  if code then break end

  local recorded = fields > header
  if recorded then sequence = sequence + 1 end
--% include "limit/commit_limits.lua"
  -- Before the commands, so that there is no mutation without its event.
  if recorded then
--% include "record/cost_of_batch.lua"
    entry[9] = charged
--% if images
--% include "record/log_before_images.lua"
--% endif
    event = call(unpack(entry))
--% include "record/trim_audit.lua"
  end
  -- The entry of those that fail; how many of the commands up to `seen` the event lists.
  local failed
  local seen, listed = 0, 0
  local run, was_typed = redis.pcall
--% if plans or lengthening
  local ran, changed = asks, false
--% else
  local ran = 0
--% endif
  stop = 4
  for i = 1, n do
    local name_at = stop + 2
    stop = argv[stop + 1]
    if not replies[i] then
      local typed, mend = typeds[i], mends[i]
      if typed ~= was_typed then
        redis.setresp(typed and 3 or 2)
        was_typed = typed
      end
--% include "reply/run_item.lua"
--% include "reply/restore_reply.lua"
--% include "reply/measure_reply.lua"
      if reply == nil then reply = find end
      replies[i] = reply
    end
  end
  if failed then call(unpack(failed)) end
--% if images
  redis.setresp(2)
--% include "record/log_after_images.lua"
--% endif
  if next(typeds) then
--% include "reply/mark_nulls.lua"
  end
  return replies
until true
--% include "reply/deny.lua"
return { err = line }
