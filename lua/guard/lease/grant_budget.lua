-- grant_budget: grant units of a budget, for as long as its window is open.
-- in:  want, their_window, had, is_same_A, is_partial, seq_A, entry_seq_A, shards_A, last_N, now_us,
--      caps_N, entry_stamp_A
-- out: at_us, code, detail, value
--      amount_N, ends_N, have_N, last_N, life_N, used_N, window_N
if not (used_N >= 0 and used_N < {{ latest_us }} and ends_N < {{ latest_us }}) then
  code, detail, value = 'COUNTER_CORRUPT', 'limit', {{ limit.slot.name }}
else
  if now_us >= ends_N then
    used_N = 0
--% include "limit/find_window_end.lua"
  end
  if window_N ~= {{ window_id }} then amount_N, have_N, window_N = 0, 0, {{ window_id }} end
  if not is_same_A then
--% if is_cap
    -- A shard takes one grant of a number, so this one, not smaller, replaces one that a revocation
    -- made void. A damaged record may have any amount.
    local void = want > 0 and seq_A == entry_seq_A and entry_stamp_A == {{ stamp }} and amount_N or 0
    if void > 0 and void <= used_N and used_N <= {{ units }} then used_N, have_N = used_N - void, have_N - void else void = 0 end
--% endif
    amount_N = 0
    -- A shard that has had more than is known: this home forgot grants in a failover.
    if their_window == {{ window_id }} and seq_A > entry_seq_A and had > have_N then
      used_N, have_N = math.min({{ units }}, used_N + had - have_N), had
    end
    local rest = {{ units }} - used_N
    if want > rest and not is_partial then
      code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', {{ limit.slot.name }}, ends_N
    elseif want > 0 then
      local most = math.max(1, math.floor({{ units }} / ({{ lease.budget_shares }} * shards_A)))
      local share = math.max(1, math.floor(rest / ({{ lease.rest_shares }} * shards_A)))
--% if is_cap and delegate
      if caps_N.most then
        -- Units beyond those that the call needs; they grow slowly, since a child may end soon.
        last_N = math.max(0, void - want, math.min(rest - want, caps_N.most, most, share, math.max({{ lease.first_amount }}, math.floor(have_N / {{ lease.used_shares }}))))
        amount_N = math.max(0, math.min(rest, want + last_N))
      else
--% endif
      amount_N = math.max(0, math.min(rest, math.max(want, math.min(most, share, last_N > 0 and {{ lease.growth }} * last_N or {{ lease.first_amount }}))))
--% if is_cap and delegate
      end
--% endif
--% if is_cap
      amount_N = math.max(amount_N, void)
--% endif
      used_N, have_N = used_N + amount_N, have_N + amount_N
    end
  end
  if want > 0 and not is_same_A or amount_N > 0 then life_N = ends_N - now_us end
end
