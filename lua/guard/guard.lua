--- guard: judge one command of one identity and, if it may, run it.
---
--- KEYS      the data keys of the command, in its own order
---
--- ARGV[1]   token        string
--- ARGV[2]   correlation  string  copied into events, up to 256 bytes
--- ARGV[3]   protocol     string  "2" or "3": the RESP version of the caller's connection
--- ARGV[4]   command      string  in upper case
--- ARGV[5…]  its arguments
---
--- Replies   the command's own reply | LEASH <CODE> key=value …
---
--- It ends in a refusal: the only way to the command is the early return in the middle.
local call, find = redis.call, string.find
local keys, argv = KEYS, ARGV
local token, correlation, protocol, command = argv[1] or '', argv[2] or '', argv[3], argv[4] or ''
local stop = #argv
local code, detail, value, amount, reason, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
--% include "authenticate.lua"
  if code then break end
  -- The unpack of the command would fail past 7,999 values, with the limits already taken.
  if stop > {{ max_arguments + 3 }} then
    code, detail, value = 'ARGS_TOO_MANY', 'arguments', stop - 3 .. ''
    break
  end
  local count = 0
--% if hard_max is not none
  local is_full
--% endif
--% include "authorize.lua"
  if code then break end

  local event
--% if masks
  local is_hidden
--% endif
--% if images
  -- The key whose image is kept, or a list of several.
  local imaged, imaged_bound
--% endif
--% filter placed(name_at)
--% if waiting
  local ready, tried = true
  if waits then
--% include "reply/find_ready.lua"
  end
  if ready then
--% endif
  if recorded then sequence = sequence + 1 end
--% include "limit/commit_limits.lua"
--% include "record/append_event.lua"
--% if waiting
  end
--% endif
--% if vault
--% include "reply/prefix_keys.lua"
--% endif
  if typed then redis.setresp(3) end
--% if waiting
  local reply = tried
--% else
  local reply
--% endif
  if reply then
    -- It ran already, to learn whether it would block.
  elseif stop == name_at + 2 then
    -- Three words, such as SET: `unpack` costs the call 2 % more.
    reply = redis.pcall(argv[name_at], argv[name_at + 1], argv[name_at + 2])
  else
    reply = redis.pcall(unpack(argv, name_at))
  end
--% include "reply/restore_reply.lua"
--% if images
  if imaged then
    if typed then redis.setresp(2) end
    if type(imaged) == 'string' then
--% include "record/log_after_image.lua"
    else
--% include "record/log_after_images.lua"
    end
    if typed then redis.setresp(3) end
  end
--% endif
--% endfilter
  return reply
until true
--% include "reply/deny.lua"
return { err = line }
