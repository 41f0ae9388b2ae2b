-- A counter per token or per captured segment. One command may touch several segments:
-- each is checked here and taken in commit_limits, once a call.
subjects_n, kept_n = {}, {}
--% if limit.subject == "token"
subjects_n[1] = {{ limit.key_prefix }} .. token_id
--% else
local seen = {}
for at = first, last, step do
  local name, segment = argv[at]
  if not name then break end
  if false then
--% for pattern in limit.captures
  elseif find(name, {{ pattern }}) then segment = string.match(name, {{ pattern }})
--% endfor
  end
  if segment and not seen[segment] then
    seen[segment] = true
    subjects_n[#subjects_n + 1] = {{ limit.key_prefix }} .. redis.sha1hex(segment)
  end
end
--% endif
for i = 1, #subjects_n do
  local subject = subjects_n[i]
--% if limit.slot.kind == "budget"
  local ends_n, used_n, period_us = 0, 0
  local kept = call('GET', subject)
  if kept then ends_n, used_n, period_us = unpack_struct('<ddd', kept) end
  if period_us and period_us ~= {{ limit.slot.period_us }} and now_us < ends_n then
    -- A reload gave the budget another window: the open one now ends with the new calendar.
--% include "partials/find_window_end.lua"
    call('SET', subject, pack('<ddd', ends_n, used_n, {{ limit.slot.period_us }}), 'PX', string.format('%.0f', math.ceil((ends_n - now_us) / 1000)))
  end
--% include "partials/check_budget.lua"
  kept_n[i] = { ends_n, used_n }
--% elif limit.slot.kind == "gcra"
  local tat_n = 0
--% include "partials/open_subject_rate.lua"
--% include "partials/check_gcra.lua"
  kept_n[i] = tat_n
--% else
  local head_n = 0
--% include "partials/open_subject_rate.lua"
--% include "partials/check_ring.lua"
  kept_n[i] = { head_n, place_n }
--% endif
  if code then break end
end
