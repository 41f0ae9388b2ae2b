-- Before the command, so that there is no mutation without its event.
if mutates then
  local field, touched = 'key', key or ''
  if count > 1 then
    local parts = {}
    for i = 1, #keys do parts[i] = #keys[i] .. ':' .. keys[i] .. ',' end
    field, touched = 'keys', table.concat(parts)
  end
  -- Trimming costs a fifth of appending, so one millisecond in seven does it.
  if now_us % 7 == 0 then
    event = call('XADD', {{ names.audit }}, 'MAXLEN', '~', {{ text(retain) }}, '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', {{ policy }})
  else
    event = call('XADD', {{ names.audit }}, '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', {{ policy }})
  end
end
