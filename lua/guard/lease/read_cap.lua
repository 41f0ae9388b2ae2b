-- read_cap: find the caps of one counter that the token and its ancestors have.
-- in:  holders, token_key, now_us, last_N, token_shards, window_N
-- out: caps_N, code, detail, ends_N, most_N, used_N, value, window_id_N
--
-- Each counts what is granted; the one with the least rest decides, and the first that ends. The
-- window of a cap for a token's life is the same when that changes.
--% if delegate
--
-- Of each cap of an ancestor, all descendants together hold at most a share beyond what their calls
-- asked for. This shard has used what it held when it asks again, unless another window began.
--% endif
local caps_N, most_N, used_N, ends_N, window_id_N = {}, nil, 0, 0, 1
for i = 1, #holders do
  local caps, at, cap_count, life_us, of_key = unpack(holders[i], 1, 5)
  for _ = 1, cap_count do
    local counter, limit, period_us, used_N, ends_N, last = struct.unpack({{ cap_format }}, caps, at)
    if counter == {{ cap_number(limit.counter) }} and not code then
--% include "limit/open_cap.lua"
      if code then detail, value = 'limit', {{ limit.slot.name }} end
      caps_N[#caps_N + 1] = { of_key, at, limit, used_N, ends_N, period_us }
--% if delegate
      caps_N[#caps_N].holder = holders[i]
--% endif
    end
    at = last
  end
end
if code then break end
for i = 1, #caps_N do
  local of_key, _, limit, used, ends_us, period_us = unpack(caps_N[i], 1, 6)
  if not most_N or limit - used < most_N - used_N then
    most_N, used_N, caps_N.used, caps_N.ends_us, caps_N.is_inherited = limit, used, used, ends_us, of_key ~= token_key
  end
  if i == 1 or ends_us < ends_N then ends_N = ends_us end
  if period_us > 0 and (window_id_N == 1 or ends_us < window_id_N) then window_id_N = ends_us end
end
--% if delegate
caps_N.before = window_N == window_id_N and last_N or 0
for i = 1, #caps_N do
  local cap = caps_N[i]
  local of_key, _, limit, _, ends_us, period_us = unpack(cap, 1, 6)
  if of_key ~= token_key then
    cap.name = {{ lease.key }} .. ':' .. string.sub(cap.holder[1], {{ record_bytes - id_chars + 1 }}, {{ record_bytes }}) .. ':spare'
    local packed = call('HMGET', cap.name, '{{ cap_number(limit.counter) }}')[1]
    local spare, window = 0, 0
    if packed and #packed == {{ lease.pair_bytes }} then spare, window = struct.unpack('<dd', packed) end
    cap.window = period_us > 0 and ends_us or 1
    if window ~= cap.window then spare = 0 end
    -- A damaged record may have any number.
    if not (spare >= 0 and spare < {{ latest_us }}) then spare = limit end
    cap.spare = math.max(0, spare - caps_N.before)
    local share = math.floor((limit / {{ lease.budget_shares }} - cap.spare) / ({{ lease.rest_shares }} * token_shards))
    caps_N.most = math.min(caps_N.most or share, share)
  end
end
--% endif
