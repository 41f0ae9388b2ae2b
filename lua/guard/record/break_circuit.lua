-- break_circuit: suspend the identity after too many denials within the period.
-- in:  token_id, code, now_us, op, correlation
-- out: counts, suspends
--
-- Only denials after the token was accepted count. Otherwise a caller without a valid token could
-- stop the agent of another. The times of the newest denials are in a list, so the threshold is
-- exact. Commands run by pcall, as in append_denial.
local counts = token_id and string.sub(code, 1, 6) ~= 'TOKEN_' and code ~= 'SUSPENDED'
--% if batch
-- A batch is checked to its end; denials after the suspension do not suspend again.
counts = counts and not suspends
--% endif
if counts then
  local total, oldest = redis.pcall('RPUSH', {{ names.refused }}, struct.pack('<d', now_us))
  -- A damaged record may have any bytes. A list longer than any policy's, or a time that is
  -- none, counts as enough refusals, and the list is not gone through.
  if type(total) == 'number' and total > {{ max_threshold }} then oldest, total = '', 0 end
  while type(total) == 'number' and total >= {{ breaker.threshold }} do
    oldest, total = redis.pcall('LPOP', {{ names.refused }}), total - 1
  end
  if type(oldest) == 'string' and not (#oldest == 8 and now_us - struct.unpack('<d', oldest) >= {{ breaker.period_us }}) then
    (function(now_us, token_id, op, correlation)
      local until_us = now_us + {{ breaker.suspend_us }}
      local until_ms = string.format('%.0f', math.ceil(until_us / 1000))
      redis.pcall('SETRANGE', {{ names.state }}, 8, struct.pack('<d', until_us))
      redis.pcall('DEL', {{ names.refused }})
      redis.pcall('HSET', {{ names.suspension }}, 'reason', {{ breaker.reason }}, 'by', 'itself', 'since_ms', string.format('%.0f', now_us / 1000), 'until_ms', until_ms)
      local seq = redis.pcall('HINCRBY', {{ names.repeats }}, 'seq', 1)
      redis.pcall('XADD', {{ names.denied }}, '*', 'seq', seq, 'token', token_id, 'code', 'SUSPENDED', 'reason', {{ breaker.reason }}, 'op', op, 'key', '', 'correlation', {{ audit.correlation }}, 'policy', {{ policy }}, 'until_ms', until_ms)
    end)(now_us, token_id, op, correlation)
--% if batch
    suspends = true
--% endif
  end
end
