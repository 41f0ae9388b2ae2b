-- record: write the counters of all limits and append the audit event of one command.
-- in:  waits, recorded
-- out: event, is_hidden, imaged, imaged_bound, ready, tried, sequence
--
-- A call that would block is neither counted nor recorded, see find_ready.
local event
--% if masks
local is_hidden
--% endif
--% if images
-- The key with a before-image, or a list of several.
local imaged, imaged_bound
--% endif
--% filter offset(name_at)
--% if waiting
local ready, tried = true
if waits then
--% include "reply/find_ready.lua"
end
if ready then
--% endif
if recorded then sequence = sequence + 1 end
--% if cluster
-- The event first: where the audit stream has moved to another node already, its error uses nothing.
--% include "record/append_event.lua"
--% include "limit/commit_limits.lua"
--% else
--% include "limit/commit_limits.lua"
--% include "record/append_event.lua"
--% endif
--% if waiting
end
--% endif
--% endfilter
