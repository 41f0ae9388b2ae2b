-- check_limit: deny a call that one limit does not allow.
-- in:  now_us, bytes, key
-- out: amount, code, detail, reason, value, at_us
--% filter suffix(limit.number)
--% if limit.counter == "bytes_written" and limit.subject != "cap"
-- No wait makes room for more.
if bytes > {{ limit.at_once }} then
  code, detail, value, reason = 'VALUE_REFUSED', 'key', key or '', {{ limit.slot.name }}
  amount = string.format(' rule=%s limit=%.0f was=%.0f', reason, {{ limit.at_once }}, bytes)
end
if code then break end
--% endif
--% if limit.counter.is_bytes
do
--% endif
--% if not limit.has_counters
--% with offset = limit.slot.offset
--% include "limit/check_" ~ limit.slot.kind ~ ".lua"
--% endwith
--% else
--% include "limit/check_subjects.lua"
--% endif
--% if limit.counter.is_bytes
end
--% endif
--% endfilter
