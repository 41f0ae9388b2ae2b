-- write_bytes: write the counters of bytes that were counted after commands.
-- in:  used_N, ends_N, tat_N, subjects_N, kept_N, counted_N, now_us, byte_caps
-- out: none
--% for limit in written_limits
--% filter suffix(limit.number)
--% if limit.has_counters and batch
for subject, kept in pairs(counted_N) do
--% include "limit/write_subject.lua"
end
--% elif limit.has_counters
do
  local subject, kept = subjects_N[1], kept_N[1]
--% include "limit/write_subject.lua"
end
--% elif limit.slot.kind == "gcra"
call('SETRANGE', {{ names.state }}, {{ limit.slot.index * 8 }}, struct.pack('<d', tat_N))
--% elif limit.slot.kind == "budget"
call('SETRANGE', {{ names.state }}, {{ limit.slot.index * 8 }}, struct.pack('<dd', ends_N, used_N))
--% endif
--% endfilter
--% endfor
--% if counts_bytes
--% for written_cap in written_caps
--% include "limit/write_byte_caps.lua"
--% endfor
--% endif
