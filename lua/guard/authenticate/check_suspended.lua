-- check_suspended: deny a call of a suspended identity, and end a suspension whose time has passed.
-- in:  now_us, suspended
-- out: at_us, code, detail, suspended, value
--
-- The state holds 0 for an active identity, 1 for a suspension without an end, and a larger number
-- for the time at which it ends.
-- An invalid time has no end.
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
