-- ask: reply that a lease is needed, with a request that the home believes.
-- in:  tag, seq, asked_us, token_seq, token_asked_us, state_A, state_key_A, is_same_A, is_partial,
--      credit_N
-- out: asked_us_A, have_N, request, window_N
--
-- Several clients share one asking, until it may have been lost. For each limit: the units that the
-- call lacks, the window of those that are here, and what the shard has had in it; for a rate the age
-- of the asking, and the time that the newest voucher took.
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
--% filter of_account("")
--% include "lease/refresh_asking.lua"
--% endfilter
local request = string.format('%s:%.0f:%.0f:%d', tag, seq, asked_us, is_partial and 1 or 0)
--% if token_account
-- Without a lease of the token its units are not known, and the call was not looked at.
if token_seq > 0 then
--% filter of_account(token_account.of)
--% include "lease/refresh_asking.lua"
--% endfilter
end
request = request .. string.format(':%.0f:%.0f', token_seq, token_asked_us)
--% endif
--% for account in lease.accounts
--% filter of_account(account.of)
--% for limit in account.leased
--% filter suffix(limit.number)
do
  local window_N, have_N = 0, 0
  if is_same_A then window_N, have_N = struct.unpack('<dd', state_A, {{ account.windows_at + 1 + lease.pair_bytes * loop.index0 }}) end
--% if not limit.runs
  window_N = now_us - asked_us_A
--% endif
  request = request .. string.format(':%.0f:%.0f:%.0f', credit_N < 0 and -credit_N or 0, window_N, have_N)
end
--% endfilter
--% endfor
--% endfilter
--% endfor
do return { err = 'LEASH LEASE_NEEDED request=' .. request .. ':' .. redis.sha1hex({{ lease.mac_outer }} .. redis.sha1hex({{ lease.mac_inner }} .. {{ lease.request_start }} .. request)) } end
