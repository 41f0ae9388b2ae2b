-- check_command: declare the function that checks a command of a script as the caller's own, and
-- runs it; of a plain command, `phase` says whether to check it or to run it.
-- in:  sequence, token_id, correlation, charge, entry, fields, n, only_reads
-- out: perform, event, befores, imaged_to, failed, seen, listed, ran, changed, raised, entry, header,
--      fields, n, recorded, outcome, spent, unheard
--
-- It is a batch of one command after the other. The event begins before the first command that
-- changes something; complete_event appends what came of it.
local befores, imaged_to, failed, seen, listed, raised
header, fields = 5, 5
local run = redis.pcall
local ran, changed = asks, false
local function perform(argv, phase)
  local name_at, stop, command = 1, #argv, argv[1]
  local count, code, detail, value, amount, reason, at_us, key, item, outcome = #keys
  -- What is found out about it before it runs is not for its turn.
  n = n + (phase == 'check' and -1 or 1)
  local i = n
--% with limits = byte_limits, counts_caps = false
  repeat
--% include "authorize/command_locals.lua"
    repeat
      if n > {{ max_batch_commands }} then code, detail, value, amount = 'ARGS_TOO_MANY', 'commands', n .. '', ' limit={{ max_batch_commands }}' break end
      if stop > {{ max_arguments }} then code, detail, value, amount = 'ARGS_TOO_MANY', 'arguments', stop .. '', ' limit={{ max_arguments }}' break end
--% include "authorize.lua"
--% if byte_limits or counts_bytes
      do
        -- The bytes of a plain command are counted with its call.
        local stop = phase and name_at or stop
--% include "limit/count_call.lua"
      end
--% endif
    until true
    if phase == 'check' then
      spent = spent + work
      return code, detail, value, amount, reason, at_us, key, command, reads, writes, deletes, recorded, walked, first, last, step
    end
    if code then break end
--% if writing
    if only_reads == 1 and find({{ writing }}, ',' .. command .. ',', 1, true) then
      outcome, unheard[n] = { err = 'ERR Write commands are not allowed from read-only scripts.' }, true
      break
    end
--% endif
--% if audit.records_reads
    recorded = recorded or reads or key ~= nil
--% endif
--% if images
    if recorded and #imaged + (last - first) / step >= {{ max_images }} then
      code, detail, value, amount = 'ARGS_TOO_MANY', 'keys', string.format('%.0f', #imaged + (last - first) / step + 1), ' limit={{ max_images }}'
      break
    end
--% endif
--% include "authorize/accept_item.lua"
    if recorded then
--% include "script/begin_event.lua"
    end
--% include "reply/run_item.lua"
--% include "reply/restore_reply.lua"
--% include "reply/measure_reply.lua"
--% if reply_limits or counts_bytes
    if {{ counts_reply }} then
--% include "limit/take_reply.lua"
    end
--% endif
    outcome = reply
  until true
  if code then
    local line = deny(code, detail, value, amount, reason, at_us, command, key)
    outcome, unheard[n], raised[line] = { err = line }, true, true
  end
--% endwith
  return outcome
end
