-- read_voucher: take the lease and the units that a voucher of the home grants.
-- in:  voucher, tag, digest, token_key, state, state_key, min_epoch, born_us, suspended,
--      sequence, last_us, is_same, credit_N, until_N
-- out: code, detail, value   set if it is forged, or of another shard
--      asked_us, credit_N, have_N, is_answered, is_same, layout, now_us, record, seq, state,
--      until_N, window_N
--
-- Its times are durations from the asking on, which this server's clock timed, so no two clocks are
-- compared and a delay only shortens a lease. One that is out of date is ignored. It is signed in the
-- shape of HMAC-SHA-1 (RFC 2104), with the inner digest in hexadecimal digits.
local words = {}
local text, signed = string.match(string.sub(voucher, 1, {{ max_voucher_bytes }}), '^(.+):(%x+)$')
if text and redis.sha1hex({{ mac_outer }} .. redis.sha1hex({{ mac_inner }} .. {{ voucher_start }} .. text)) == signed then
  for word in string.gmatch(text, '[^:]+') do words[#words + 1] = word end
end
if words[1] ~= tag then code, detail, value = 'LEASE_REFUSED', 'reason', 'voucher' break end
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
local asked, epoch = tonumber(words[3]), tonumber(words[5])
if words[4] == '{{ stamp }}' and epoch >= min_epoch and asked >= born_us and asked <= now_us + {{ skew_us }} then
  local expires_us = asked + words[8]
  -- Whole milliseconds, since the clock is computed from the expiry of the key.
  expires_us = expires_us - expires_us % 1000
  if words[6] == digest and expires_us > now_us then
    record = struct.pack('<ddddc12', expires_us, epoch, asked, {{ stamp }}, words[7])
    call('SET', token_key, record, 'PXAT', string.format('%.0f', (expires_us + {{ keep_record_us }}) / 1000))
  end
  -- Units: once, and only for the very asking that this answers.
  if tonumber(words[2]) == seq and asked == asked_us then
    is_answered = {}
--% for limit in leased
--% filter suffix(limit.number)
    local window_N, have_N = 0, 0
    if is_same then window_N, have_N = struct.unpack('<dd', state, {{ shard_windows_at + 1 + pair_bytes * loop.index0 }}) end
    local amount_N, life_N, open_N = tonumber(words[{{ 9 + 3 * loop.index0 }}]), tonumber(words[{{ 10 + 3 * loop.index0 }}]), tonumber(words[{{ 11 + 3 * loop.index0 }}])
    -- Without a life it is of a limit that was not asked for; what expired on its way is no answer.
    is_answered[{{ limit.number }}] = life_N > 0 and now_us < asked + life_N
--% if limit.runs
    if life_N > 0 then
      if open_N ~= window_N then credit_N, have_N, window_N = 0, 0, open_N end
      credit_N, have_N, until_N = credit_N + amount_N, have_N + amount_N, asked + life_N
    end
--% else
    if life_N > 0 and not (credit_N > 0 and now_us < until_N) then
      credit_N, until_N = amount_N, asked + life_N
    elseif amount_N > 0 then
      credit_N, until_N = credit_N + amount_N, math.min(until_N, asked + life_N)
    end
--% endif
--% endfilter
--% endfor
    seq, asked_us, layout = seq + 1, 0, {{ shard_layout }}
--% filter expand("CREDITS", credits)
--% filter expand("WINDOWS", windows)
    state = struct.pack({{ shard_format }}, layout, suspended, min_epoch, seq, asked_us, born_us, sequence, last_us, CREDITS, WINDOWS)
--% endfilter
--% endfilter
    is_same = true
    call('SET', state_key, state)
  end
end
