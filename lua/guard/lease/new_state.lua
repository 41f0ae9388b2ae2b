-- new_state: begin the state of a shard that has none. It ends soon unless units are granted to it,
-- so that made-up tags fill no memory.
-- in:  state_key
-- out: asked_us, born_us, last_us, layout, min_epoch, seq, sequence, state, suspended
--
-- Two names, the second of which never exists: while the slot is being imported, this is an error,
-- and no second state stands in the way of the one that is on its way.
call('EXISTS', state_key, {{ no_name }})
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
-- Numbers of an earlier life never come again, and nothing that was asked before is believed.
layout, suspended, min_epoch, seq, asked_us, born_us, sequence, last_us = 0, 0, 0, now_us, 0, now_us, 0, 0
state = struct.pack('<dddddddd', layout, suspended, min_epoch, seq, asked_us, born_us, sequence, last_us)
call('SET', state_key, state, 'PX', {{ text(lease.new_state_ms) }})
