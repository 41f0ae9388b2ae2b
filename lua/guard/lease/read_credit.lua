-- read_credit: read the units of limits per token that the shard has for the token, and take those
-- of a voucher.
-- in:  token_id, born_us, state_key, vouched, now_us, is_answered, credit_N, until_N
-- out: asked_us_A, is_answered, is_same_A, layout_A, seq_A, state_A, state_key_A, CREDITS, credit_N,
--      until_N
--
-- They have a record in the form of the state, with its own number of grants. It is of one life of
-- the state: where that begins again, the units of all tokens are dropped.
state_key_A = state_key .. ':' .. {{ leaf_of("token_id") }}
state_A = call('GET', state_key_A)
local layout_A, suspended, min_epoch, began_us
if state_A and #state_A >= {{ lease.shard_bytes }} then
  layout_A, suspended, min_epoch, seq_A, asked_us_A, began_us = struct.unpack('<dddddd', state_A)
else
  -- As for a new state.
  call('EXISTS', state_key_A, {{ no_name }})
  local time = call('TIME')
  seq_A = time[1] * 1000000 + time[2]
end
if began_us ~= born_us then
  layout_A, asked_us_A = 0, 0
  state_A = struct.pack('<dddddddd', 0, 0, 0, seq_A, 0, born_us, 0, 0)
  call('SET', state_key_A, state_A, 'PX', {{ text(lease.new_state_ms) }})
end
is_same_A = layout_A == {{ account.layout_number }} and #state_A == {{ account.state_bytes }}
if is_same_A then
--% filter expand("CREDITS", account.credits)
  CREDITS = struct.unpack({{ account.credits_format }}, state_A, {{ lease.shard_bytes + 1 }})
--% endfilter
end
if vouched then
  local words, asked_A = vouched, tonumber(vouched[{{ account.voucher_at + 1 }}])
--% include "lease/take_units.lua"
end
