-- renew_token: move the expiry of the token; reply with the time, its id, its expiry, and whether it is
-- the latest that the policy allows.
-- in:  is_capped, now_us, recorded, renewed_us, token_id, token_key
-- out: none
if recorded then
  -- Read again, since its caps were just counted. In one command, as guards compute the time from
  -- expiry and life. A renewal is a use.
  local current = call('GET', token_key)
  call('SET', token_key, struct.pack('<dd', renewed_us, now_us) .. string.sub(current, {{ flags_at }}), 'PXAT', string.format('%.0f', (renewed_us + {{ keep_record_us }}) / 1000))
--% if delegate
  -- The set that bounds the number of its children lives as long.
  redis.pcall('PEXPIREAT', {{ names.children_prefix }} .. token_id, string.format('%.0f', renewed_us / 1000))
--% endif
end
return { string.format('%.0f', now_us), token_id, string.format('%.0f', renewed_us / 1000), is_capped and 1 or 0 }
