local matched = false
--% if denied
--% with matchers = denied
--% include "partials/match_any.lua"
--% endwith
if matched then code, detail, value = 'KEY_DENIED', 'key', key end
--% endif
if code then
  -- A deny rule wins over every grant.
--% for check in checks
elseif check == {{ check.id }} then
--% for requirement in check.requirements
  if not code then
    matched = false
--% with matchers = requirement.matchers
--% include "partials/match_any.lua"
--% endwith
    if not matched then
      code, detail, value = 'KEY_NOT_GRANTED', 'key', key
--% if requirement.others
--% with matchers = requirement.others
--% include "partials/match_any.lua"
--% endwith
      if matched then code, detail, value = 'CLASS_NOT_GRANTED', 'class', {{ requirement.missing }} end
--% endif
    end
  end
--% endfor
--% endfor
end
