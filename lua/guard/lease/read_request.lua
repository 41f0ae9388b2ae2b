-- read_request: read the request of a shard and what the home has granted to it before.
-- in:  request
-- out: code, detail, value   set if it is refused
--      shard, seq, asked_us, is_partial, words, entry, epoch, shards, entry_seq, entry_asked_us,
--      granted_us, is_same
--
-- A shard signs numbers of its state, which a fenced agent may write, so they are bounded here.
local words = {}
local text, signed = string.match(string.sub(request, 1, {{ max_voucher_bytes }}), '^(.+):(%x+)$')
if text and redis.sha1hex({{ mac_outer }} .. redis.sha1hex({{ mac_inner }} .. {{ request_start }} .. text)) == signed then
  for word in string.gmatch(text, '[^:]+') do words[#words + 1] = word end
end
local are_numbers = #words == {{ request_words }}
for i = 2, #words do are_numbers = are_numbers and find(words[i], '^%d+$') and #words[i] <= 16 end
if not are_numbers then code, detail, value = 'LEASE_REFUSED', 'reason', 'request' break end
local shard, seq, asked_us, is_partial = words[1], tonumber(words[2]), tonumber(words[3]), words[4] == '1'
local found = call('HMGET', {{ leases_key }}, shard, {{ epoch_field }})
local entry, epoch = found[1], tonumber(found[2]) or 0
-- One of its fields is the epoch.
local shards = call('HLEN', {{ leases_key }}) - 1
local entry_seq, entry_asked_us, granted_us, entry_stamp, entry_epoch = -1, 0, 0
if entry and #entry >= {{ entry_bytes }} then
  entry_seq, entry_asked_us, granted_us, entry_stamp, entry_epoch = struct.unpack('<ddddd', entry)
else
  shards = shards + 1
  if shards > {{ max_shards }} then code, detail, value = 'LEASE_REFUSED', 'reason', 'shards' break end
--% include "lease/check_tag.lua"
end
shards = math.max(1, shards)
-- What was granted under another policy or epoch is void, so it is not granted again for nothing.
local is_same = seq == entry_seq and entry_stamp == {{ stamp }} and entry_epoch == epoch
-- What a shard asked before its newest grant: it is to be asked again.
if not is_same and seq < entry_seq and asked_us <= entry_asked_us then
  return { err = 'LEASH LEASE_REFUSED reason=stale' }
end
