--- guard: check one command of one identity and run it if it is allowed.
---
--- KEYS      the data keys of the command, in its own order
---
--- ARGV[1]   token        string
--- ARGV[2]   correlation  string  copied into events, up to 256 bytes
--- ARGV[3]   command      string  in upper case
--- ARGV[4…]  its arguments
---
--- Replies   the command's own reply | LEASH <CODE> key=value …
---
--- It ends in a denial: the only way to the command is the early return in the middle. README.md
--- describes the phases and the locals that they share.
local known, known_count
local call, find = redis.call, string.find
local keys, argv = KEYS, ARGV
local token, correlation, command = argv[1] or '', argv[2] or '', argv[3] or ''
local stop = #argv
local code, detail, value, amount, reason, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
--% include "authenticate.lua"
  if code then break end
  -- unpack fails past 7,999 values, and by then the limits are counted.
  if stop > {{ max_arguments + 2 }} then
    code, detail, value = 'ARGS_TOO_MANY', 'arguments', stop - 2 .. ''
    break
  end
  local count = 0
--% if hard_max is not none
  local is_full
--% endif
--% include "authorize/command_locals.lua"
  repeat
--% include "authorize.lua"
--% include "limit.lua"
  until true
  if code then break end

--% include "record.lua"
--% include "reply.lua"
  return reply
until true
--% include "reply/deny.lua"
return { err = line }
