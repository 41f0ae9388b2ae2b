-- write_subject: write the counter of one token or captured segment.
-- in:  subject, kept, now_us
-- out: head, ring, taken
--% if limit.slot.kind == "gcra"
call('SET', subject, struct.pack('<ddd', kept, 0, {{ limit.slot.pace_us }}), 'PX', string.format('%.0f', math.ceil((kept - now_us) / 1000) + {{ limit.keep_ms }}))
--% elif limit.slot.kind == "budget"
call('SET', subject, struct.pack('<ddd', kept[1], kept[2], {{ limit.slot.period_us }}), 'PX', string.format('%.0f', math.ceil((kept[1] - now_us) / 1000) + {{ limit.keep_ms }}))
--% else
call('SETRANGE', subject, 0, struct.pack('<ddd', kept[1], {{ limit.slot.capacity }}, {{ limit.slot.pace_us }}))
--% if batch
local ring, head, taken = subject, kept[1], kept[2]
--% with offset = subject_ring_offset
--% include "limit/write_ring.lua"
--% endwith
--% else
call('SETRANGE', subject, kept[3], struct.pack('<d', now_us))
--% endif
call('PEXPIRE', subject, {{ text(limit.slot.period_ms + limit.keep_ms) }})
--% endif
