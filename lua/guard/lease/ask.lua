-- ask: reply that a lease is needed, with a request that the home believes.
-- in:  tag, seq, asked_us, state, state_key, is_same, is_partial, credit_N
-- out: asked_us, have_N, request, window_N
--
-- Several clients share one asking, until it may have been lost. For each limit: the units that the
-- call lacks, the window of those that are here, and what the shard has had in it.
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
if not (asked_us > 0 and asked_us <= now_us and now_us - asked_us < {{ refresh_us }}) then
  asked_us = now_us
  call('SETRANGE', state_key, {{ asked_at }}, struct.pack('<d', asked_us))
end
local request = string.format('%s:%.0f:%.0f:%d', tag, seq, asked_us, is_partial and 1 or 0)
--% for limit in leased
--% filter suffix(limit.number)
do
  local window_N, have_N = 0, 0
  if is_same then window_N, have_N = struct.unpack('<dd', state, {{ shard_windows_at + 1 + pair_bytes * loop.index0 }}) end
  request = request .. string.format(':%.0f:%.0f:%.0f', credit_N < 0 and -credit_N or 0, window_N, have_N)
end
--% endfilter
--% endfor
do return { err = 'LEASH LEASE_NEEDED request=' .. request .. ':' .. redis.sha1hex({{ mac_outer }} .. redis.sha1hex({{ mac_inner }} .. {{ request_start }} .. request)) } end
