if type(reply) == 'table' then
  if reply.err then
    -- The event stands; this one corrects it. A script words these errors in its own way.
    if find(reply.err, '^ERR Wrong number of args') then
      reply = redis.error_reply("ERR wrong number of arguments for '" .. string.lower((string.gsub(command, ' ', '|'))) .. "' command")
    elseif find(reply.err, '^ERR Unknown [%a ]*command called from') then
      reply = redis.error_reply("ERR unknown command '" .. command .. "'")
    elseif find(reply.err, '^ERR ACL failure in script: ') then
      reply = redis.error_reply('NOPERM ' .. string.sub(reply.err, 28))
    end
    if event then
--% if batch
      call('XADD', {{ names.audit }}, '*', 'of', event, 'item', argv[1], 'error', string.sub(reply.err, 1, 200))
--% else
      call('XADD', {{ names.audit }}, '*', 'of', event, 'error', string.sub(reply.err, 1, 200))
--% endif
    end
--% if scan_check is not none
  elseif command == 'SCAN' then
--% include "partials/filter_scan.lua"
--% endif
  elseif protocol == '3' then
--% include "partials/restore_nulls.lua"
  end
elseif type(reply) == 'number' and (reply >= 9007199254740992 or reply <= -9007199254740992) then
  -- A double cannot hold it; as a string it is exact, and the client makes it a number again.
  if command == 'HINCRBY' then
    reply = call('HGET', argv[5], argv[6])
  elseif find(command, '^INCR') or find(command, '^DECR') then
    reply = call('GET', argv[5])
  end
end
