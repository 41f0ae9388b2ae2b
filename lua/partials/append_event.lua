-- Before the command, so that there is no mutation without its event.
if mutates then
  local field, touched = 'key', key or ''
  if count > 1 then
    local parts = {}
    for i = 1, #keys do parts[i] = #keys[i] .. ':' .. keys[i] .. ',' end
    field, touched = 'keys', table.concat(parts)
  end
  -- Trimming costs more than appending, so one append in 97 does it; prime, lest a clock
  -- that ticks in round steps never hit it.
  if now_us % 97 == 0 then
    event = call('XADD', {{ names.audit }}, 'MAXLEN', '~', {{ text(retain) }}, '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', {{ policy }})
  else
    event = call('XADD', {{ names.audit }}, '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', {{ policy }})
  end
end
