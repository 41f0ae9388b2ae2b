-- check_command: declare the function that checks a command of a script as the caller's own, and
-- runs it.
-- in:  sequence, token_id, correlation, charged, entry, fields, n, only_reads
-- out: perform, event, befores, imaged_to, failed, seen, listed, ran, changed, raised, entry, header,
--      fields, n, recorded, outcome, unheard
--
-- It is a batch of one command after the other. The event begins before the first command that
-- changes something; complete_event appends what came of it.
local befores, imaged_to, failed, seen, listed, raised = {}, 0, nil, 0, 0, {}
entry, header, fields = { 'XADD', {{ names.audit }}, '*', 'of', '' }, 5, 5
local run = redis.pcall
local ran, changed = asks, false
local function perform(argv)
  local name_at, stop, command = 1, #argv, argv[1]
  local code, detail, value, amount, reason, at_us, key, item, outcome
  n = n + 1
  local i = n
--% with batch = true, limits = byte_limits, waiting = false, counts_caps = false
  repeat
    if n > {{ max_batch_commands }} then code, detail, value, amount = 'ARGS_TOO_MANY', 'commands', n .. '', ' limit={{ max_batch_commands }}' break end
    if stop > {{ max_arguments }} then code, detail, value, amount = 'ARGS_TOO_MANY', 'arguments', stop .. '', ' limit={{ max_arguments }}' break end
--% include "authorize/command_locals.lua"
    repeat
--% include "authorize.lua"
--% if byte_limits or counts_bytes
--% include "limit/count_call.lua"
--% endif
    until true
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
--% include "reply/deny.lua"
    outcome, unheard[n], raised[line] = { err = line }, true, true
  end
--% endwith
  return outcome
end
