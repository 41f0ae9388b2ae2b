-- read_entry: read what the home has granted to the shard before, for the identity or for one token.
-- in:  entry_A, shards_A, seq_A, asked_us_A, epoch, shard
-- out: code, detail, value   set if it is refused
--      entry_seq_A, entry_asked_us_A, granted_us_A, entry_stamp_A, is_same_A, shards_A
local entry_seq_A, entry_asked_us_A, granted_us_A, entry_stamp_A, entry_epoch_A = -1, 0, 0
if entry_A and #entry_A >= {{ lease.entry_bytes }} then
  entry_seq_A, entry_asked_us_A, granted_us_A, entry_stamp_A, entry_epoch_A = struct.unpack('<ddddd', entry_A)
else
  shards_A = shards_A + 1
--% if not account.of
  if shards_A > {{ lease.max_shards }} then code, detail, value = 'LEASE_REFUSED', 'reason', 'shards' break end
--% include "lease/check_tag.lua"
--% endif
end
shards_A = math.max(1, shards_A)
-- What was granted under another policy or epoch is void, so it is not granted again for nothing.
local is_same_A = seq_A == entry_seq_A and entry_stamp_A == {{ stamp }} and entry_epoch_A == epoch
-- What a shard asked before its newest grant: it is to be asked again.
if not is_same_A and seq_A < entry_seq_A and asked_us_A <= entry_asked_us_A then
  return { err = 'LEASH LEASE_REFUSED reason=stale' }
end
