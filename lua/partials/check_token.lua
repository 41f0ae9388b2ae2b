if revoked ~= 0 then
  code = 'TOKEN_REVOKED'
else
  local time = call('TIME')
  now_us = time[1] * 1000000 + time[2]
  if expires_us <= now_us then
    code, detail, value = 'TOKEN_EXPIRED', 'expired_at_ms', string.format('%.0f', expires_us / 1000)
--% if idle_us is not none
  -- One second more: commit_limits writes the time of use at most once a second.
  elseif now_us - used_us > {{ idle_us + 1000000 }} then
    code, detail, value = 'TOKEN_EXPIRED', 'idle_since_ms', string.format('%.0f', used_us / 1000)
--% endif
  end
end
