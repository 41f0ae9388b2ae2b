-- check_suspended: deny a call of a suspended identity, and end a suspension whose time has passed.
-- in:  record, token_key
-- out: at_us, code, detail, expires_us, now_us, suspended, value
--
-- The state holds 0 for an active identity, 1 for a suspension without an end, and a larger number
-- for the time at which it ends. The clock comes from the token's record, as in check_token, although
-- the token is not checked yet; a record without an expiry gives no time.
local expires_us = record and #record >= {{ record_bytes }} and struct.unpack('<d', record) or 0
local left_ms = expires_us > 0 and expires_us < {{ latest_us }} and call('PTTL', token_key) or 0
if left_ms > 0 then
  now_us = expires_us + {{ keep_record_us }} - left_ms * 1000
else
  local time = call('TIME')
  now_us = time[1] * 1000000 + time[2]
end
-- A fenced agent may write any bytes there: an invalid time has no end.
if not (suspended < {{ latest_us }}) then suspended = 1 end
if suspended > 1 and suspended <= now_us then
  -- pcall, since on a full or read-only server the next call only looks at the clock again.
  redis.pcall('SETRANGE', {{ names.state }}, 8, struct.pack('<d', 0))
else
  code, at_us = 'SUSPENDED', suspended
  -- pcall, since a fence of before may not let it be read.
  local stored = redis.pcall('HGET', {{ names.suspension }}, 'reason')
  -- Cut, since an agent with a circuit breaker may write it, and denials repeat it.
  if type(stored) == 'string' and stored ~= '' then detail, value = 'reason', string.sub(stored, 1, {{ max_reason_bytes }}) end
end
