-- delegate: make a child of the token, with the restrictions in the words of the call.
-- in:  argv, sequence, now_us, correlation, counted_N, kept_N, subjects_N, is_full
-- out: code, detail, value, amount, reason, command, sequence, passed, passed_writes, counted_N
--
-- It counts as a write, and is recorded before anything is stored.
do
  command = 'DELEGATE'
  local name_at, walked, first, last, step = #argv, keys, 1, 0, 1
  local reads, writes, deletes, recorded = false, true, false, true
--% if running
  local times, taken = nil, 1
--% endif
--% for limit in limits
--% filter suffix(limit.number)
--% if limit.has_counters
  local subjects_N, kept_N
--% elif limit.slot.kind == "ring"
  local place_N
--% endif
--% endfilter
--% endfor
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
--% for limit in limits if limit.has_counters
--% filter suffix(limit.number)
    if subjects_N then
      for i = 1, #subjects_N do counted_N[subjects_N[i]] = kept_N[i] end
    end
--% endfilter
--% endfor
--% include "limit/commit_limits.lua"
    local told = #child_id .. ':' .. child_id .. ','
    for at = 6, #argv do told = told .. #argv[at] .. ':' .. argv[at] .. ',' end
    call('XADD', {{ names.audit }}, '*', 'seq', sequence, 'token', token_id, 'policy', {{ charges.write }}, 'correlation', correlation, command, '', 'args', told)
--% include "record/trim_audit.lua"
--% include "delegate/make_child.lua"
    return { string.format('%.0f', ends_ms), child_id }
  until true
end
