-- count_call: check that every limit allows the call, and count it.
-- in:  COUNTS_CALL, writes, key, now_us, argv, name_at, stop
-- out: code, detail, value, at_us   set if the command is denied
--      bytes, caps, caps_at
--% if limits | selectattr("counter", "equalto", "bytes_written") | list
--% filter offset(name_at)
local bytes = 0
if writes then
  for at = name_at + 1, stop do bytes = bytes + #argv[at] end
end
--% endfilter
--% endif
--% for limit in limits + (cap_plans if counts_caps else ())
--% filter expand("COUNTS_CALL", [counts(limit)])
if COUNTS_CALL then
--% endfilter
--% with ring = names.state if limit.slot.kind == "ring" else none, taken = name("bytes") if limit.counter == "bytes_written" else 1 if limit.counter == "bytes_read" else taken
--% cached_include "limit/check_limit.lua" with limit, ring, subject_ring_offset, batch, taken, running, cluster, root_of
--% endwith
  if code then break end
end
--% endfor
--% if delegate and counts_caps
local own_caps, own_at = caps, caps_at
--% endif
--% if bound_tokens and counts_caps and not cluster
if caps then
--% include "limit/check_caps.lua"
end
--% endif
--% if delegate and counts_caps
if ancestors then
--% include "limit/check_ancestors.lua"
  if code then
    caps, caps_at = own_caps, own_at
    break
  end
end
--% endif
--% for limit in limits + (cap_plans if counts_caps else ()) if not limit.has_counters
--% filter expand("COUNTS_CALL", [counts(limit)])
if COUNTS_CALL then
--% endfilter
--% with taken = name("bytes") if limit.counter == "bytes_written" else 0 if limit.counter == "bytes_read" else taken
--% cached_include "limit/take_limit.lua" with limit, batch, taken, running
--% endwith
end
--% endfor
