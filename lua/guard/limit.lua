-- limit: check that the audit stream has room and that every limit allows the call, and count the
-- call.
-- in:  reads, COUNTS_CALL, recorded, key, now_us
-- out: code, detail, value, at_us   set if the command is denied
--
-- Counting happens only after every limit was checked; record writes what was counted.
--% include "record/check_capacity.lua"
--% if hard_max is not none
if code then break end
--% endif
--% for limit in limits
--% filter expand("COUNTS_CALL", [counted[limit.counter]])
if COUNTS_CALL then
--% endfilter
--% with ring = names.state if limit.slot.kind == "ring" else none
--% cached_include "limit/check_limit.lua" with limit, ring, subject_ring_offset, batch, taken, running, cluster
--% endwith
  if code then break end
end
--% endfor
--% for limit in limits if not limit.has_counters
--% filter expand("COUNTS_CALL", [counted[limit.counter]])
if COUNTS_CALL then
--% endfilter
--% cached_include "limit/take_limit.lua" with limit, batch, taken, running
end
--% endfor
