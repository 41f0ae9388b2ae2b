-- check_key: deny a key that is too long, that a deny rule matches, or that no grant of the needed
-- class matches.
-- in:  check, key
-- out: amount, code, detail, matched, value
local matched = false
if #key > {{ key_bytes }} then
  code, detail, value, amount = 'KEY_TOO_LONG', 'key', key, {{ too_long }}
else
--% if denied and not denied_last
--% include "authorize/check_denied.lua"
--% endif
if code then
  -- A deny rule wins over every grant.
--% for check in checks
elseif {{ one_check }} or check == {{ check.id }} then
--% for requirement in check.requirements
  if not code then
    matched = false
--% with matchers = requirement.matchers
--% include "authorize/match_any.lua"
--% endwith
    if not matched then
      code, detail, value = 'KEY_NOT_GRANTED', 'key', key
--% if requirement.others
--% with matchers = requirement.others
--% include "authorize/match_any.lua"
--% endwith
      if matched then code, detail, value = 'CLASS_NOT_GRANTED', 'class', {{ requirement.missing }} end
--% endif
--% if requirement.missing and requirement.left_out
      if not matched then
--% with matchers = requirement.left_out
--% include "authorize/match_any.lua"
--% endwith
        if matched then code, detail, value, amount = 'CLASS_NOT_GRANTED', 'class', {{ requirement.missing }}, ' by=command' end
      end
--% endif
    end
  end
--% endfor
--% endfor
end
--% if bound_tokens
if bindings and not code then
--% include "authorize/check_bound.lua"
end
--% endif
--% if denied_last
-- No granted key meets a deny rule here, so it is asked only to name the reason.
if code then
--% include "authorize/check_denied.lua"
end
--% endif
end
