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
local call, find = redis.call, string.find
local pack, unpack_struct = struct.pack, struct.unpack
local keys, all = KEYS, ARGV
local token, correlation, protocol, mode = all[1] or '', all[2] or '', all[3], all[4]
local code, detail, value, at_us, token_id, key, now_us, item
local command = 'BATCH'
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
--% include "partials/open.lua"
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
  -- One event for all: its own fields, then for each command that changes something its name
  -- and its key; with several keys, their number behind the name, and netstrings.
  local event = { 'XADD', {{ names.audit }}, '*', 'token', token_id, 'correlation', correlation, 'policy', {{ policy }} }
  local replies, passed, changed = {}, {}, 0
  local count, n, start = 0, 0, 5
  while all[start] do
    n = n + 1
    command, key = 'BATCH', nil
    local size = tonumber(all[start]) or 0
    local stop = start + size
    if size < 1 or not all[stop] then
      code, detail, value, item = 'COMMAND_REFUSED', 'size', all[start], n
      break
    end
    if n > {{ max_batch_commands }} then code, detail, value = 'ARGS_TOO_MANY', 'commands', n break end
    if stop - 4 - n > {{ max_arguments }} then
      code, detail, value = 'ARGS_TOO_MANY', 'arguments', stop - 4 - n
      break
    end
    -- As a guard has it: the name at 4, the arguments from 5 on.
    local argv = { unpack(all, start - 2, stop) }
    start = stop + 1
    command = argv[4]
    repeat
--% include "partials/judge.lua"
      if code then break end
--% include "partials/pass.lua"
    until true
    if code and mode == 'all' then item = n break end
    if code then
--% include "partials/refuse.lua"
      replies[n] = redis.error_reply(line)
      code, detail, value = nil, nil, nil
    end
  end
  if mode == 'all' and not code and keys[count + 1] then code, command, key = 'KEYS_MISMATCH', 'BATCH', nil end
  if code then break end

--% include "partials/commit_limits.lua"
  -- Before the commands, so that there is no mutation without its event.
  local event_id
  if changed > 0 then
    event_id = call(unpack(event))
    -- As in append_event.
    if now_us % 97 == 0 then call('XTRIM', {{ names.audit }}, 'MAXLEN', '~', {{ text(retain) }}) end
  end
  if protocol == '3' then redis.setresp(3) end
  for i = 1, n do
    local argv = passed[i]
    if argv then
      local reply_length, command, event = argv[2], argv[3], argv[1] and event_id
      local reply = redis.pcall(unpack(argv, 4))
--% include "partials/mend_reply.lua"
      if reply == nil then reply = find end
      replies[i] = reply
    end
  end
  return replies
until true
--% include "partials/refuse.lua"
return redis.error_reply(line)
