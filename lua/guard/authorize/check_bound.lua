-- check_bound: deny a key that the restrictions of the token leave out, or the classes of the command.
-- in:  mask, bindings, narrow, record, key, check, reads, writes, deletes, find
-- out: amount, code, detail, matched, value
--
-- A key passes the bindings if one of the patterns that a requirement asks for has a capture for
-- each of them, with an equal segment.
matched = true
--% if not any_grant
if mask < {{ all_classes }} then
  if reads and mask % 2 < 1 then
    matched = 'read'
  elseif writes and mask % 4 < 2 then
    matched = 'write'
  elseif deletes and mask % 8 < 4 then
    matched = 'delete'
  end
  if matched ~= true then code, detail, value, amount = 'CLASS_NOT_GRANTED', 'class', matched, ' by=token' end
end
--% endif
if narrow > 0 and matched == true then
--% include "authorize/match_narrow.lua"
end
if bindings > 0 and matched == true then
  local match = string.match
  if false then
--% for check in checks
  elseif {{ one_check }} or check == {{ check.id }} then
--% for requirement in check.requirements
    if matched then
      matched = false
--% with matchers = requirement.matchers | selectattr("captured") | list, binding = true
--% include "authorize/match_any.lua"
--% endwith
    end
--% endfor
--% endfor
  end
end
if not matched then code, detail, value, amount = 'KEY_NOT_GRANTED', 'key', key, ' by=token' end
