--- guard: check one command of one identity and run it if it is allowed.
---
--- KEYS      the data keys of the command, in its own order
---
--- ARGV[1]   token        string
--- ARGV[2]   correlation  string  copied into events, up to 256 bytes; perhaps `<source>\n` before it
--- ARGV[3]   command      string  in upper case
--- ARGV[4…]  its arguments
---
---           before the command perhaps `once` and an idempotency id
---           on a cluster one more: the tag of the shard, or a voucher
---
--- Replies   the command's own reply | LEASH <CODE> key=value …
---           on a cluster also LEASH LEASE_NEEDED request=<for the home>: nothing ran
---
--- It ends in a denial: the only way to the command is the early return in the middle. README.md
--- describes the phases and the locals that they share.
local call, find = redis.call, string.find
local keys, argv = KEYS, ARGV
--% if cluster
--% include "lease/shard_locals.lua"
--% endif
--% if idempotency
--% include "authenticate/take_id.lua"
--% endif
local token, correlation, command = argv[1] or '', argv[2] or '', argv[3] or ''
local stop = #argv
-- The arguments of the next call are compared with these until they are collected.
if stop > {{ many_arguments }} then collectgarbage('step', {{ collected_kib }}) end
local code, detail, value, amount, reason, at_us, token_id, key, now_us
--% if audit.source
--% include "record/take_source.lua"
--% endif
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
--% if cluster
--% include "authenticate_shard.lua"
--% else
--% include "authenticate.lua"
--% endif
  if code then break end
--% if idempotency
--% if subscribing
  if once and find({{ subscribing }}, ',' .. command .. ',', 1, true) then
    -- A subscription is the client's, and ends with the right to it.
    code, detail, value = 'COMMAND_REFUSED', 'once', 'subscription'
    break
  end
--% endif
--% include "authenticate/find_reply.lua"
--% endif
  -- unpack fails past 7,999 values, and by then the limits are counted.
  if stop > {{ max_arguments + 2 }} then
    code, detail, value = 'ARGS_TOO_MANY', 'arguments', stop - 2 .. ''
    break
  end
  local count = 0
--% if audit.hard_max is not none
  local is_full
--% endif
--% include "authorize/command_locals.lua"
  repeat
--% if cluster
    if lacks then break end
--% endif
--% include "authorize.lua"
--% if idempotency
    if once then
      local changes = recorded
--% include "record/check_id.lua"
      if code then break end
    end
--% endif
--% include "limit.lua"
  until true
  if code then break end
--% if cluster
  if lacks then
--% include "lease/ask.lua"
  end
--% endif

--% include "record.lua"
--% if idempotency
  -- A call that would block did not run.
  if not event then once_key = nil end
--% include "record/remember_call.lua"
--% endif
--% include "reply.lua"
--% if idempotency
--% include "reply/remember_reply.lua"
--% endif
  return reply
until true
--% include "reply/deny.lua"
return { err = line }
