-- check_renewal: check the renewal of the token, which is the only item of its batch.
-- in:  argv, command, n, name_at, times, record, token_id, now_us
-- out: code, detail, value, reason, writes, recorded, is_capped, renewed_us
--
-- A renewal is charged as a write, since it appends an event. One that changes nothing, because the
-- token lives as long already, is a request alone.
local wanted_s, is_run = argv[name_at + 1], false
--% if running
is_run = times ~= nil
--% endif
if command ~= 'RENEW' or n > 1 or is_run or stop ~= name_at + 1 or argv[stop + 1] or #wanted_s > 10 or not find(wanted_s, '^%d*$') then
  code, detail, value = 'COMMAND_REFUSED', 'mode', 'renew'
  break
end
--% include "authorize/read_issue.lua"
if latest_us then
  -- In whole milliseconds, as records have them.
  local now_ms, expires_us = math.floor(now_us / 1000), struct.unpack('<d', record)
  local wanted_us = now_ms * 1000 + (wanted_s == '' and life_us or wanted_s * 1000000)
  is_capped = wanted_us > latest_us
  renewed_us = math.min(wanted_us, latest_us - latest_us % 1000)
  if renewed_us > expires_us then
    writes, recorded = true, true
  elseif is_capped then
    reason = 'max_ttl'
  else
    renewed_us = expires_us
  end
end
if reason then
  code, detail, value = 'RENEWAL_REFUSED', 'reason', reason
  break
end
