-- delegate: make a child of the token, with the restrictions in the words of the call.
-- in:  argv, sequence, now_us, correlation, counted_N, kept_N, subjects_N, is_full
-- out: code, detail, value, amount, reason, command, sequence, passed, passed_writes, recorded,
--      writes, counted_N
--
-- It counts as a write, and is recorded before anything is stored.
do
  command = 'DELEGATE'
--% include "authorize/keyless_locals.lua"
  writes, recorded = true, true
  repeat
--% include "delegate/check_delegation.lua"
    if refused then
      code, reason, amount = 'DELEGATION_REFUSED', refused, ' reason=' .. refused
      if about then detail, value = 'restriction', about end
      break
    end
--% include "limit.lua"
    if code then break end
    passed, passed_writes, sequence = 1, 1, sequence + 1
--% include "limit/collect_counts.lua"
--% include "limit/commit_limits.lua"
    local words_of_child = #child_id .. ':' .. child_id .. ','
--% if masks
--% include "delegate/mask_keys.lua"
--% endif
    for at = 6, #argv do words_of_child = words_of_child .. #argv[at] .. ':' .. argv[at] .. ',' end
    call('XADD', {{ names.audit }}, '*', 'seq', sequence, 'token', token_id, 'policy', {{ charges.write }}, 'correlation', {{ audit.correlation }}, command, '', 'args', words_of_child)
--% include "record/trim_audit.lua"
--% include "delegate/make_child.lua"
    return { string.format('%.0f', ends_ms), child_id }
  until true
end
