-- count_call: check that every limit allows the call, and count it.
-- in:  COUNTS_CALL, writes, key, now_us, argv, name_at, stop
-- out: code, detail, value, at_us   set if the command is denied
--      ancestors, byte_caps, bytes, caps, caps_at
--% if limits | selectattr("counter", "equalto", "bytes_written") | list
--% filter offset(name_at)
local bytes = 0
if writes then
--% include "limit/measure_bytes.lua"
end
--% endfilter
--% elif counts_bytes
local bytes
--% elif cap_plans and counts_caps
--% filter offset(name_at)
local bytes = 0
if caps and caps[{{ cap_number("bytes_written") }}] and writes then
--% include "limit/measure_bytes.lua"
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
--% if counts_bytes and counts_caps
--% if batch
local own_caps, own_at = caps, caps_at
--% if delegate
local counted_by
--% endif
--% endif
if caps then
--% with holder = name("token_key")
--% include "limit/check_caps.lua"
--% endwith
end
--% if delegate
if ancestors then
--% include "limit/check_ancestors.lua"
--% if not batch
  if code then break end
--% endif
end
--% endif
--% endif
--% if counts_bytes
if byte_caps and not code then
--% filter offset(name_at)
--% include "limit/check_byte_caps.lua"
--% endfilter
end
--% if batch and counts_caps
if code then
  caps, caps_at = own_caps, own_at
  break
end
--% else
if code then break end
--% endif
if byte_caps and writes then
  for i = 1, #byte_caps do
    local cap = byte_caps[i]
    if cap.counter == {{ cap_number("bytes_written") }} then cap.used, cap.is_charged = cap.used + bytes, true end
  end
end
--% endif
--% if counts_bytes and counts_caps and batch and delegate
for i = 1, counted_by and #ancestors or 0 do ancestors[i][1], ancestors[i][2] = counted_by[i], 1 end
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
