-- check_subjects: check a limit that has a counter per token or per captured segment.
-- in:  token_id, first, last, step, walked, counted_N, code
-- out: ends_N, head_N, kept_N, seen, subjects_N, taken_N, tat_N, used_N
--
-- One command may touch several segments: each is checked here and counted in commit_limits.
subjects_N, kept_N = {}, {}
--% if limit.subject == "token"
subjects_N[1] = {{ limit.key_prefix }} .. {{ root_of("token_id") }}
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
--% if cluster
    -- In the slot of the key, whose hash tag is the segment.
    subjects_N[#subjects_N + 1] = {{ limit.key_prefix }} .. '{' .. segment .. '}'
--% else
    subjects_N[#subjects_N + 1] = {{ limit.key_prefix }} .. redis.sha1hex(segment)
--% endif
  end
end
--% endif
for i = 1, #subjects_N do
  local subject = subjects_N[i]
--% include "limit/subject_locals.lua"
--% if batch
  local counted = counted_N[subject]
  if counted then
--% if limit.slot.kind == "budget"
    ends_N, used_N = counted[1], counted[2]
--% elif limit.slot.kind == "gcra"
    tat_N = counted
--% else
    head_N, taken_N = counted[1], counted[2]
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
  local place_N
--% endif
--% include "limit/check_" ~ limit.slot.kind ~ ".lua"
  if code then break end
--% with taken = 0 if limit.counter == "bytes_read" else taken
--% include "limit/take_" ~ limit.slot.kind ~ ".lua"
--% endwith
--% endwith
--% if limit.slot.kind == "budget"
  kept_N[i] = { ends_N, used_N }
--% elif limit.slot.kind == "gcra"
  kept_N[i] = tat_N
--% else
  kept_N[i] = { head_N, taken_N, place_N }
--% endif
end
