-- keyless_locals: declare what the phases find out about a call without keys that runs no command.
-- in:  argv, keys
-- out: name_at, walked, first, last, step, reads, writes, deletes, recorded, times, taken, run_end,
--      subjects_N, kept_N, place_N
local name_at, walked, first, last, step = #argv, keys, 1, 0, 1
local reads, writes, deletes, recorded = false, false, false, false
--% if running
local times, run_end, taken = nil, nil, 1
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
