-- A counter per token or per captured segment. One command may touch several segments:
-- each is checked here and taken in commit_limits, once a call.
subjects_n, kept_n = {}, {}
--% if limit.subject == "token"
subjects_n[1] = {{ limit.key_prefix }} .. token_id
--% else
local seen = {}
for at = first, last, step do
  local name, segment = walked[at]
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
  local ends_n, used_n = 0, 0
--% elif limit.slot.kind == "gcra"
  local tat_n = 0
--% else
  local head_n, taken_n = 0, 0
--% endif
--% if batch
  local counted = counted_n[subject]
  if counted then
--% if limit.slot.kind == "budget"
    ends_n, used_n = counted[1], counted[2]
--% elif limit.slot.kind == "gcra"
    tat_n = counted
--% else
    head_n, taken_n = counted[1], counted[2]
--% endif
  else
--% endif
--% if limit.slot.kind == "budget"
--% include "limit/open_subject_budget.lua"
--% else
--% include "limit/open_subject_rate.lua"
--% endif
--% if batch
  end
--% endif
--% with offset = subject_ring_offset, ring = name("subject")
--% if limit.slot.kind == "ring"
  local place_n
--% endif
--% include "limit/check_" ~ limit.slot.kind ~ ".lua"
  if code then break end
--% include "limit/take_" ~ limit.slot.kind ~ ".lua"
--% endwith
--% if limit.slot.kind == "budget"
  kept_n[i] = { ends_n, used_n }
--% elif limit.slot.kind == "gcra"
  kept_n[i] = tat_n
--% else
  kept_n[i] = { head_n, taken_n, place_n }
--% endif
end
