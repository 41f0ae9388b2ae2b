-- record_batch: write the counters of all limits and append one audit event for the commands of a
-- batch.
-- in:  fields, header, charged
-- out: entry, event, recorded, sequence
local recorded = fields > header
if recorded then sequence = sequence + 1 end
--% if not cluster
--% include "limit/commit_limits.lua"
--% endif
-- Before the commands, so that there is no mutation without its event.
if recorded then
--% include "record/cost_of_batch.lua"
  entry[9] = charged
--% if images
--% include "record/log_before_images.lua"
--% endif
  event = call(unpack(entry))
--% include "record/trim_audit.lua"
end
--% if cluster
-- Where the audit stream has moved to another node already, its error uses nothing.
--% include "limit/commit_limits.lua"
--% endif
