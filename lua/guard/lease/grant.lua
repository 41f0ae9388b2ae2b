-- grant: find how many units of each limit the shard gets; for the same asking as many as before.
-- in:  words, entry_A, shards_A, is_same_A, is_partial, seq_A, entry_seq_A, granted_us_A, now_us,
--      token_id, holders, ancestors
-- out: code, detail, value, at_us, amount   set if a limit has too few
--      amount_N, life_N, window_N, have_N, last_N
--      subject_N, ends_N, used_N, head_N, tat_N   of limits per token
--% if cap_plans
local holders = {}
if caps then holders[1] = { caps, caps_at, cap_count, life_us, token_key } end
--% if delegate
for i = 1, ancestors and #ancestors or 0 do holders[#holders + 1] = ancestors[i] end
--% endif
--% endif
--% for account in lease.accounts
--% filter of_account(account.of)
--% for limit in account.leased
--% filter suffix(limit.number)
--% with word = account.request_limits_at + 3 * loop.index0, is_subject = limit.subject == "token", is_cap = limit.subject == "cap"
-- The newest amount that was not 0 says how fast the shard uses units.
local amount_N, window_N, have_N, last_N, life_N = 0, 0, 0, 0, 0
if entry_A and #entry_A == {{ account.entry_size }} then amount_N, window_N, have_N, last_N = struct.unpack('<dddd', entry_A, {{ lease.entry_bytes + 1 + lease.leased_bytes * loop.index0 }}) end
--% if is_subject
local subject_N = {{ limit.key_prefix }} .. {{ root_of("token_id") }}
--% include "limit/subject_locals.lua"
do
  local subject = subject_N
--% include "limit/open_subject_" ~ ("budget" if limit.runs else "rate") ~ ".lua"
end
--% elif is_cap
--% include "lease/read_cap.lua"
--% endif
do
  local want, their_window, had = tonumber(words[{{ word }}]), tonumber(words[{{ word + 1 }}]), tonumber(words[{{ word + 2 }}])
--% with offset = subject_ring_offset if is_subject else limit.slot.offset, ring = name("subject_N") if is_subject else names.state, units = name("most_N") if is_cap else limit.slot.limit, window_id = name("window_id_N") if is_cap else name("ends_N")
--% if is_cap
  if most_N then
--% endif
--% include "lease/grant_" ~ limit.slot.kind ~ ".lua"
--% if not limit.runs
  -- Life begins with this request, and is counted from its asking.
  if life_N > 0 then life_N = life_N + their_window end
--% endif
--% if is_cap
    if code == 'BUDGET_EXHAUSTED' then
      at_us = caps_N.ends_us
      if caps_N.is_inherited then amount = ' by=ancestor' end
    end
  end
--% endif
--% endwith
end
if code then break end
--% if is_cap and delegate
if amount_N > 0 and not caps_N.most then last_N = amount_N end
--% else
if amount_N > 0 then last_N = amount_N end
--% endif
--% endwith
--% endfilter
--% endfor
--% endfilter
--% endfor
