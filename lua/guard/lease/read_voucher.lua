-- read_voucher: take the lease and the units that a voucher of the home grants.
-- in:  voucher, tag, digest, token_key, state_A, state_key_A, min_epoch, born_us, suspended,
--      sequence, last_us, is_same_A, credit_N, until_N
-- out: code, detail, value   set if it is forged, or of another shard
--      asked_us_A, credit_N, is_answered, is_same_A, layout_A, now_us, record, seq_A, state_A,
--      until_N, vouched
--
-- Its times are durations from the asking on, which this server's clock timed, so no two clocks are
-- compared and a delay only shortens a lease. One that is out of date is ignored. It is signed in the
-- shape of HMAC-SHA-1 (RFC 2104), with the inner digest in hexadecimal digits.
local words = {}
local text, signed = string.match(string.sub(voucher, 1, {{ lease.max_voucher_bytes }}), '^(.+):(%x+)$')
if text and redis.sha1hex({{ lease.mac_outer }} .. redis.sha1hex({{ lease.mac_inner }} .. {{ lease.voucher_start }} .. text)) == signed then
  for word in string.gmatch(text, '[^:]+') do words[#words + 1] = word end
end
if words[1] ~= tag then code, detail, value = 'LEASE_REFUSED', 'reason', 'voucher' break end
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
local asked, epoch = tonumber(words[3]), tonumber(words[5])
if words[4] == '{{ stamp }}' and epoch >= min_epoch and asked >= born_us and asked <= now_us + {{ lease.skew_us }} then
  local expires_us = asked + words[8]
  -- Whole milliseconds, since the clock is computed from the expiry of the key.
  expires_us = expires_us - expires_us % 1000
  if words[6] == digest and expires_us > now_us then
    record = struct.pack('<ddddc12', expires_us, epoch, asked, {{ stamp }}, {{ leaf_of("words[7]") }})
--% if has_paths
    local path = string.sub(words[7], 1, {{ -1 - id_chars }})
    record = record .. string.char(#path) .. path
--% endif
--% if bound_tokens
    record = record .. string.gsub(string.sub(words[{{ lease.voucher_words }}], 2), '..', function(digits) return string.char(tonumber(digits, 16)) end)
--% endif
    call('SET', token_key, record, 'PXAT', string.format('%.0f', (expires_us + {{ keep_record_us }}) / 1000))
--% if token_account
    vouched = words
--% endif
  end
--% with account = lease.own_account
--% filter of_account(account.of)
--% include "lease/take_units.lua"
--% endfilter
--% endwith
end
