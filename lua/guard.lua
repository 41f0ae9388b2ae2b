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
local pack, unpack_struct = struct.pack, struct.unpack
local keys, argv = KEYS, ARGV
local token, correlation, command = argv[1] or '', argv[2] or '', argv[4] or ''
local code, detail, value, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
--% if layout.has_rings
  local state = call('GETRANGE', {{ names.state }}, 0, {{ layout.header_bytes - 1 }})
  if state == '' then code = 'NOT_ACTIVE' break end
--% else
  local state = call('GET', {{ names.state }})
  if not state then code = 'NOT_ACTIVE' break end
--% endif
  -- A shorter state is another guard's; unpacking it would fail before its stamp is seen.
  if #state < {{ layout.header_bytes }} then code = 'POLICY_STALE' break end
--% filter spread("number_n", numbers)
  local stamp, suspended, number_n = unpack_struct({{ state_format }}, state)
--% endfilter
  if stamp ~= {{ stamp }} then code = 'POLICY_STALE' break end
  if suspended ~= 0 then code = 'SUSPENDED' break end

  local token_key, record
--% include "partials/read_token.lua"
  if not record then code = 'TOKEN_UNKNOWN' break end
  local expires_us, used_us, revoked, id = unpack_struct('<ddBc12', record)
  token_id = id
--% include "partials/check_token.lua"
  if code then break end

  -- The unpack of the command would fail past 7,999 values, with the limits already taken.
  if #argv > {{ max_arguments + 3 }} then
    code, detail, value = 'ARGS_TOO_MANY', 'arguments', #argv - 3
    break
  end
  local rule
--% include "partials/find_rule.lua"
  if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end

  local first, last, step, check, rest = 5, 5, 1
  local requests, reads, writes, deletes, mutates = true
  local reply_length
--% include "partials/apply_rule.lua"
  if code then break end

  -- The caller's list of keys is a claim: what is checked is what the command will touch.
  local count = 1
  if first == last then
    if keys[1] ~= argv[first] then code = 'KEYS_MISMATCH' end
  else
    count = 0
    for at = first, last, step do
      count = count + 1
      if keys[count] ~= argv[at] then code = 'KEYS_MISMATCH' end
    end
  end
  if code or keys[count + 1] then code = 'KEYS_MISMATCH' break end
  for at = first, last, step do
    key = argv[at]
    -- A key that is missing is a wrong arity, and that is the command's own error.
    if not key then break end
--% include "partials/check_key.lua"
    if code then break end
    check = rest
  end
  if code then break end

  -- Every limit is looked at before one is taken: a refused call consumes nothing.
--% for limit in limits
--% filter numbered(limit.number)
--% filter spread("this_counter", [limit.counter])
--% if limit.slot.kind == "ring"
  local place_n
--% endif
--% if limit.subject != "identity"
  local subjects_n, kept_n
--% endif
  if this_counter and not code then
--% if limit.subject == "identity"
--% include "partials/check_" ~ limit.slot.kind ~ ".lua"
--% else
--% include "partials/check_subjects.lua"
--% endif
  end
--% endfilter
--% endfilter
--% endfor
  if code then break end
--% include "partials/commit_limits.lua"

  local event
--% include "partials/append_event.lua"
  if argv[3] == '3' then redis.setresp(3) end
  local reply = redis.pcall(unpack(argv, 4))
--% include "partials/mend_reply.lua"
  return reply
until true
--% include "partials/refuse.lua"
