if type(reply) == 'table' then
  if reply.err then
    -- The event stands; this one corrects it. A script words these errors in its own way.
    if find(reply.err, '^ERR Wrong number of args') then
      reply = redis.error_reply("ERR wrong number of arguments for '" .. string.lower(command) .. "' command")
    elseif find(reply.err, '^ERR Unknown [%a ]*command called from') then
      reply = redis.error_reply("ERR unknown command '" .. command .. "'")
    elseif find(reply.err, '^ERR ACL failure in script: ') then
      reply = redis.error_reply('NOPERM ' .. string.sub(reply.err, 28))
    end
    if event then
      call('XADD', {{ names.audit }}, '*', 'of', event, 'error', string.sub(reply.err, 1, 200))
    end
  elseif reply_length and argv[3] == '3' then
    -- A null became nil, at which Lua's arrays end; see compiler/replies.py.
    for i = 1, reply_length do
      if reply[i] == nil then reply[i] = false end
    end
    redis.setresp(2)
  end
elseif type(reply) == 'number' and (reply >= 9007199254740992 or reply <= -9007199254740992) then
  -- A double cannot hold it; as a string it is exact, and the client makes it a number again.
  if command == 'HINCRBY' then
    reply = call('HGET', key, argv[6])
  elseif find(command, '^INCR') or find(command, '^DECR') then
    reply = call('GET', key)
  end
end
