-- check_token: deny a token that is revoked, expired or idle for too long, or bound where the policy
-- allows no bound tokens; set the clock.
-- in:  revoked, expires_us, record, token_key, used_us
-- out: code, detail, now_us, value
if revoked ~= 0 then
  code = 'TOKEN_REVOKED'
--% if not bound_tokens
  if revoked % 4 == {{ bound_flag }} then detail, value = 'bound', 'off' end
--% elif not delegate
  if revoked == {{ bound_flag + child_flag }} then detail, value = 'depth', tostring(string.byte(record, -1)) end
--% endif
else
  -- A record outlives its token by a fixed time, so its remaining life gives the server's clock,
  -- to the millisecond and at half the cost of TIME. Without an expiry the clock would be
  -- past the end of the token: a denial.
  now_us = expires_us + {{ keep_record_us }} - call('PTTL', token_key) * 1000
  -- Written so that NaN is denied: a client that may write the record could put it there.
  if not (expires_us > now_us and expires_us < {{ latest_us }}) then
    code = 'TOKEN_EXPIRED'
    if expires_us >= 0 and expires_us < {{ latest_us }} then
      detail, value = 'expired_at_ms', string.format('%.0f', expires_us / 1000)
    else
      -- By a corrupt record the time is not known.
      now_us = nil
    end
--% if idle_us is not none
  -- So much more as a use may be newer than commit_limits has noted.
  elseif not (now_us - used_us <= {{ idle_us + use_noted_us }} and used_us < {{ latest_us }}) then
    code = 'TOKEN_EXPIRED'
    if used_us >= 0 and used_us < {{ latest_us }} then
      detail, value = 'idle_since_ms', string.format('%.0f', used_us / 1000)
    end
--% endif
  end
end
