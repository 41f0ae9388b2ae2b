-- take_units: take the units that a voucher grants to the identity, or to the token: once, and only
-- for the very asking that it answers.
-- in:  words, asked_A, asked_us_A, born_us, credit_N, is_answered, is_same_A, last_us, layout_A,
--      min_epoch, now_us, seq_A, sequence, state_A, state_key_A, suspended, until_N
-- out: asked_us_A, credit_N, ends_us, have_N, is_answered, is_same_A, layout_A, seq_A, state_A,
--      until_N, window_N
if tonumber(words[{{ account.voucher_at }}]) == seq_A and asked_A == asked_us_A then
--% if account.of
  is_answered = is_answered or {}
--% else
  is_answered = {}
--% endif
--% for limit in account.leased
--% filter suffix(limit.number)
--% with word = account.voucher_limits_at + 3 * loop.index0
  local window_N, have_N = 0, 0
  if is_same_A then window_N, have_N = struct.unpack('<dd', state_A, {{ account.windows_at + 1 + lease.pair_bytes * loop.index0 }}) end
  local amount_N, life_N, open_N = tonumber(words[{{ word }}]), tonumber(words[{{ word + 1 }}]), tonumber(words[{{ word + 2 }}])
  -- Without a life it is of a limit that was not asked for; what expired on its way is no answer, and
  -- units that are too few may have been granted to a smaller call of the same asking.
  is_answered[{{ limit.number }}] = amount_N == 0 and life_N > 0 and now_us < asked_A + life_N
--% if limit.runs
  if life_N > 0 then
    if open_N ~= window_N then credit_N, have_N, window_N = 0, 0, open_N end
    credit_N, have_N, until_N = credit_N + amount_N, have_N + amount_N, asked_A + life_N
  end
--% else
  if life_N > 0 then have_N = math.max(1, now_us - asked_A - open_N) end
  if life_N > 0 and not (credit_N > 0 and now_us < until_N) then
    credit_N, until_N = amount_N, asked_A + life_N
  elseif amount_N > 0 then
    credit_N, until_N = credit_N + amount_N, math.min(until_N, asked_A + life_N)
  end
--% endif
--% endwith
--% endfilter
--% endfor
  seq_A, asked_us_A, layout_A = seq_A + 1, 0, {{ account.layout_number }}
--% filter expand("CREDITS", account.credits)
--% filter expand("WINDOWS", account.windows)
--% if account.of
  state_A = struct.pack({{ account.state_format }}, layout_A, 0, 0, seq_A, asked_us_A, born_us, 0, 0, CREDITS, WINDOWS)
--% else
  state_A = struct.pack({{ account.state_format }}, layout_A, suspended, min_epoch, seq_A, asked_us_A, born_us, sequence, last_us, CREDITS, WINDOWS)
--% endif
--% endfilter
--% endfilter
  is_same_A = true
--% if account.of
  -- It ends with the last unit. A damaged record may have any times.
  local ends_us = now_us + {{ lease.new_state_ms * 1000 }}
--% for limit in account.leased
--% filter suffix(limit.number)
  if until_N > ends_us and until_N < {{ latest_us }} then ends_us = until_N end
--% endfilter
--% endfor
  call('SET', state_key_A, state_A, 'PXAT', string.format('%.0f', math.ceil(ends_us / 1000)))
--% else
  call('SET', state_key_A, state_A)
--% endif
end
