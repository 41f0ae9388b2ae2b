-- write_grant: charge the limits, write down the grant, and write the voucher.
-- in:  words, shard, seq, asked_us, is_same, entry_asked_us, granted_us, epoch, token, token_id,
--      record, token_key, used_us, sequence, now_us, bindings, amount_N, life_N, window_N,
--      STATE_NUMBERS, head_N, subject_N, token_seq, token_asked_us, token_leases
-- out: entry_asked_us, granted_us, voucher
if is_same then
  entry_asked_us = math.max(asked_us, entry_asked_us)
else
  entry_asked_us, granted_us = asked_us, now_us
--% if numbers
--% filter expand("STATE_NUMBERS", numbers)
  call('SETRANGE', {{ names.state }}, 16, struct.pack({{ numbers_format }}, sequence, STATE_NUMBERS))
--% endfilter
--% endif
--% for limit in lease.own_account.leased if limit.slot.kind == "ring"
--% filter suffix(limit.number)
  do
    local ring, head, taken, now_us = {{ names.state }}, head_N, amount_N, now_us + {{ limit.life_us }}
--% with offset = limit.slot.offset
--% include "limit/write_ring.lua"
--% endwith
  end
--% endfilter
--% endfor
end
--% filter expand("GRANTS", lease.own_account.grants)
call('HSET', {{ lease.key }}, shard, struct.pack({{ lease.own_account.entry_format }}, seq, entry_asked_us, granted_us, {{ stamp }}, epoch, GRANTS))
--% endfilter
--% if token_account
if token_seq > 0 then
--% include "lease/write_token_grant.lua"
end
--% endif
-- pcall, as in commit_limits.
if not (now_us - used_us < {{ use_noted_us }}) then redis.pcall('SETRANGE', token_key, 8, struct.pack('<d', now_us)) end
local life_us = math.min({{ lease.life_us }}, struct.unpack('<d', record) - now_us)
local voucher = string.format('%s:%.0f:%.0f:%s:%.0f:%s:%s:%.0f', shard, seq, asked_us, '{{ stamp }}', epoch, redis.sha1hex(token), token_id, life_us)
--% if token_account
voucher = voucher .. string.format(':%.0f:%.0f', token_seq, token_asked_us)
--% endif
--% for limit in lease.leased
--% filter suffix(limit.number)
--% if limit.runs
voucher = voucher .. string.format(':%.0f:%.0f:%.0f', amount_N, life_N, window_N)
--% else
voucher = voucher .. string.format(':%.0f:%.0f:%s', amount_N, life_N, words[{{ lease.own_account.request_limits_at + 3 * loop.index0 + 1 }}])
--% endif
--% endfilter
--% endfor
--% if bound_tokens
--% include "lease/write_restrictions.lua"
--% endif
