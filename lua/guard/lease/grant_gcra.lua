-- grant_gcra: grant units of a rate with a burst. Each may be used until its life ends, so the
-- TAT counts from then, and the next grant from now. Where a burst is short, so is the life: a few
-- times what the newest voucher took.
-- in:  want, had, is_same_A, is_partial, shards_A, granted_us_A, last_N, now_us
-- out: at_us, code, detail, value
--      amount_N, have_N, life_N, tat_N
if is_same_A then
  life_N = math.min(have_N, have_N - (now_us - granted_us_A))
  if amount_N == 0 or life_N <= 0 then amount_N, life_N = 0, 0 end
elseif want == 0 then
  amount_N = 0
else
  amount_N, have_N = 0, math.max({{ limit.life_us }}, had > 0 and math.min({{ lease.min_rate_life_us }}, {{ lease.short_life_parts }} * had) or {{ lease.min_rate_life_us }})
  life_N = have_N
  local early_us = tat_N - {{ limit.tolerance_us }}
  if not (tat_N < {{ latest_us }}) then
    code, detail, value = 'COUNTER_CORRUPT', 'limit', {{ limit.slot.name }}
  elseif early_us <= now_us then
    local share = math.max(1, math.floor({{ limit.slot.limit }} / ({{ lease.rate_shares }} * shards_A)))
    local most = math.min({{ lease.max_rate_units }}, math.max(want, math.min(share, last_N > 0 and {{ lease.growth }} * last_N or {{ lease.first_amount }})))
    amount_N = math.min(most, math.floor(math.min({{ limit.tolerance_us }}, now_us - early_us) / {{ limit.slot.interval_us }}) + 1)
  end
  if not code and amount_N < want and not is_partial then
    code, detail, value = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}
    at_us = math.max(now_us + 1, early_us + (want - 1) * {{ limit.slot.interval_us }})
  elseif amount_N == 0 then
    life_N = math.max(1, early_us - now_us)
  end
  if amount_N > 0 then tat_N = math.max(tat_N, now_us + have_N) + amount_N * {{ limit.slot.interval_us }} end
end
