if revoked ~= 0 then
  code = 'TOKEN_REVOKED'
else
  -- A record is kept for a fixed time after the end of its token, so the time that it has left
  -- tells the server's clock, to the millisecond and at half the cost of TIME. Were it kept
  -- for ever, the clock would stand behind that end: a refusal.
  now_us = expires_us + {{ keep_record_us }} - call('PTTL', token_key) * 1000
  -- In these words what is no number is refused: whoever may write the record could put it there.
  if not (expires_us > now_us) then
    code, detail, value = 'TOKEN_EXPIRED', 'expired_at_ms', string.format('%.0f', expires_us / 1000)
--% if idle_us is not none
  -- So much more as a use may be newer than commit_limits has noted.
  elseif now_us - used_us > {{ idle_us + use_noted_us }} then
    code, detail, value = 'TOKEN_EXPIRED', 'idle_since_ms', string.format('%.0f', used_us / 1000)
--% endif
  end
end
