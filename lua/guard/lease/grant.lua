-- grant: find how many units of each limit the shard gets; for the same asking as many as before.
-- in:  words, entry, shards, is_same, is_partial, seq, entry_seq, granted_us, now_us
-- out: code, detail, value, at_us   set if a limit has too few
--      amount_N, life_N, window_N, have_N, last_N
--% for limit in leased
--% filter suffix(limit.number)
-- The newest amount that was not 0 says how fast the shard uses units.
local amount_N, window_N, have_N, last_N, life_N = 0, 0, 0, 0, 0
if entry and #entry == {{ whole_entry_bytes }} then amount_N, window_N, have_N, last_N = struct.unpack('<dddd', entry, {{ entry_bytes + 1 + leased_bytes * loop.index0 }}) end
do
  local want, their_window, had = tonumber(words[{{ 5 + 3 * loop.index0 }}]), tonumber(words[{{ 6 + 3 * loop.index0 }}]), tonumber(words[{{ 7 + 3 * loop.index0 }}])
--% include "lease/grant_" ~ limit.slot.kind ~ ".lua"
end
if code then break end
if amount_N > 0 then last_N = amount_N end
--% endfilter
--% endfor
