-- read_request: read the request of a shard and what the home has granted to it before.
-- in:  request, token_id
-- out: code, detail, value   set if it is refused
--      shard, seq, asked_us, is_partial, words, entry, epoch, shards, entry_seq_A, entry_asked_us_A,
--      granted_us_A, entry_stamp_A, is_same_A
--      token_seq, token_asked_us, token_entry, token_leases, token_shards
--
-- Numbers of the state of a shard may be damaged, so they are bounded here.
local words = {}
local text, signed = string.match(string.sub(request, 1, {{ lease.max_voucher_bytes }}), '^(.+):(%x+)$')
if text and redis.sha1hex({{ lease.mac_outer }} .. redis.sha1hex({{ lease.mac_inner }} .. {{ lease.request_start }} .. text)) == signed then
  for word in string.gmatch(text, '[^:]+') do words[#words + 1] = word end
end
local are_numbers = #words == {{ lease.request_words }}
for i = 2, #words do are_numbers = are_numbers and find(words[i], '^%d+$') and #words[i] <= 16 end
if not are_numbers then code, detail, value = 'LEASE_REFUSED', 'reason', 'request' break end
local shard, seq, asked_us, is_partial = words[1], tonumber(words[2]), tonumber(words[3]), words[4] == '1'
local found = call('HMGET', {{ lease.key }}, shard, {{ lease.epoch_field }})
local entry, epoch = found[1], tonumber(found[2]) or 0
-- One of its fields is the epoch.
local shards = call('HLEN', {{ lease.key }}) - 1
--% filter of_account("")
--% with account = lease.own_account
--% include "lease/read_entry.lua"
--% endwith
--% endfilter
--% if token_account
local token_seq, token_asked_us = tonumber(words[5]), tonumber(words[6])
local token_leases = {{ lease.key }} .. ':' .. {{ leaf_of("token_id") }}
-- A shard without a lease of the token asks for no units of it.
local token_entry, token_shards = token_seq > 0 and call('HMGET', token_leases, shard)[1], call('HLEN', token_leases)
--% with account = token_account
--% filter of_account(account.of)
--% include "lease/read_entry.lua"
--% endfilter
--% endwith
--% endif
