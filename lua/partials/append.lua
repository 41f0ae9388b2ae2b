-- Trimming costs more than appending, so one append in 97 does it; prime, lest a clock
-- that ticks in round steps never hit it.
if now_us % 97 == 0 then
  event = call('XADD', {{ names.audit }}, 'MAXLEN', '~', {{ text(retain) }}, '*', 'token', token_id, 'op', {{ op }}, {{ field }}, {{ touched }}, 'correlation', correlation, 'policy', {{ policy }})
else
  event = call('XADD', {{ names.audit }}, '*', 'token', token_id, 'op', {{ op }}, {{ field }}, {{ touched }}, 'correlation', correlation, 'policy', {{ policy }})
end
