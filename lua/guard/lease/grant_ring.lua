-- grant_ring: grant units of an exact rate. Each may be used until its life ends, and fills its
-- slot of the ring for a period from then.
-- in:  want, is_same_A, is_partial, shards_A, granted_us_A, last_N, now_us
-- out: at_us, code, detail, value
--      amount_N, head_N, life_N
if is_same_A then
  life_N = math.min({{ limit.life_us }}, {{ limit.life_us }} - (now_us - granted_us_A))
  if amount_N == 0 or life_N <= 0 then amount_N, life_N = 0, 0 end
elseif want == 0 then
  amount_N = 0
else
  amount_N, life_N = 0, {{ limit.life_us }}
  if not (head_N >= 0 and head_N < {{ limit.slot.capacity }} and head_N % 1 == 0) then
    code, detail, value = 'COUNTER_CORRUPT', 'limit', {{ limit.slot.name }}
  else
    local share = math.max(1, math.floor({{ limit.slot.limit }} / ({{ lease.rate_shares }} * shards_A)))
    local most = math.min({{ limit.slot.capacity }}, {{ lease.max_rate_units }}, math.max(want, math.min(share, last_N > 0 and {{ lease.growth }} * last_N or {{ lease.first_amount }})))
    -- Slots that were never used are free; a ring grows until it goes round.
    local unwrapped = math.min(most, {{ limit.slot.capacity }} - head_N)
    local place = {{ offset }} + head_N * 8
    local slots = call('GETRANGE', {{ ring }}, place, place + unwrapped * 8 - 1)
    slots = slots .. string.rep('\0', unwrapped * 8 - #slots)
    if most > unwrapped then
      slots = slots .. call('GETRANGE', {{ ring }}, {{ offset }}, {{ offset - 1 }} + (most - unwrapped) * 8)
      slots = slots .. string.rep('\0', most * 8 - #slots)
    end
    -- Of more units than the rate has, none will ever be free at once.
    local free_us = now_us + {{ limit.slot.period_us }}
    while amount_N < most do
      local next_us = struct.unpack('<d', slots, amount_N * 8 + 1) + {{ limit.slot.period_us }}
      if not (next_us <= now_us) then free_us = next_us break end
      amount_N = amount_N + 1
    end
    if amount_N < want and not (free_us < {{ latest_us }}) then
      code, detail, value = 'COUNTER_CORRUPT', 'limit', {{ limit.slot.name }}
    elseif amount_N < want and not is_partial then
      code, detail, value, at_us = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}, free_us
    elseif amount_N == 0 then
      life_N = free_us - now_us
    end
    head_N = (head_N + amount_N) % {{ limit.slot.capacity }}
  end
end
