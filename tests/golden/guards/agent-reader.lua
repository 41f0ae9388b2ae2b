local call, find = redis.call, string.find
local pack, unpack_struct = struct.pack, struct.unpack
local keys, argv = KEYS, ARGV
local token, correlation, command = argv[1] or '', argv[2] or '', argv[4] or ''
local code, detail, value, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local state = call('GETRANGE', "keyleash:state:agent-reader", 0, 39)
if state == '' then code = 'NOT_ACTIVE' break end
if #state < 40 then code = 'POLICY_STALE' break end
local stamp, suspended, head_1, ends_2, used_2 = unpack_struct("<ddddd", state)
if stamp ~= 53210343246521 then code = 'POLICY_STALE' break end
if suspended ~= 0 then code = 'SUSPENDED' break end
local token_key, record
if #token <= 160 then
token_key = "keyleash:token:agent-reader:" .. redis.sha1hex(token)
record = call('GET', token_key)
end
if not record then code = 'TOKEN_UNKNOWN' break end
local expires_us, used_us, revoked, id = unpack_struct('<ddBc12', record)
token_id = id
if revoked ~= 0 then
code = 'TOKEN_REVOKED'
else
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
if expires_us <= now_us then
code, detail, value = 'TOKEN_EXPIRED', 'expired_at_ms', string.format('%.0f', expires_us / 1000)
end
end
if code then break end
if #argv > 7003 then
code, detail, value = 'ARGS_TOO_MANY', 'arguments', #argv - 3
break
end
local rule
local length = #command
if false then
elseif length == 3 then
if false then
elseif false
or command == "GET"
or command == "TTL"
then rule = 2
elseif false
or command == "LCS"
then rule = 9
elseif false
or command == "SET"
then rule = 1
elseif false
or command == "DEL"
then rule = 4
end
elseif length == 4 then
if false then
elseif false
or command == "HGET"
or command == "DUMP"
or command == "HTTL"
or command == "LPOS"
or command == "PTTL"
then rule = 2
elseif false
or command == "MGET"
then rule = 10
elseif false
or command == "ECHO"
or command == "PING"
or command == "TIME"
then rule = 5
elseif false
or command == "HLEN"
or command == "LLEN"
or command == "TYPE"
or command == "XLEN"
then rule = 8
elseif false
or command == "HSET"
or command == "INCR"
or command == "ZADD"
or command == "SADD"
or command == "XADD"
or command == "MSET"
or command == "COPY"
or command == "DECR"
or command == "LSET"
or command == "XACK"
then rule = 1
elseif false
or command == "LPOP"
or command == "RPOP"
or command == "HDEL"
or command == "LREM"
or command == "SPOP"
or command == "SREM"
or command == "XDEL"
or command == "ZREM"
then rule = 4
end
elseif length == 6 then
if false then
elseif false
or command == "EXISTS"
then rule = 6
elseif false
or command == "LRANGE"
or command == "ZRANGE"
or command == "XRANGE"
or command == "BITPOS"
or command == "GETBIT"
or command == "LINDEX"
or command == "SUBSTR"
or command == "ZCOUNT"
or command == "ZSCORE"
then rule = 2
elseif false
or command == "GEOPOS"
then rule = 7
elseif false
or command == "SINTER"
or command == "SUNION"
then rule = 11
elseif false
or command == "STRLEN"
then rule = 8
elseif false
or command == "EXPIRE"
or command == "INCRBY"
or command == "APPEND"
or command == "BLMOVE"
or command == "DECRBY"
or command == "GEOADD"
or command == "GETSET"
or command == "HGETEX"
or command == "HSETEX"
or command == "HSETNX"
or command == "LPUSHX"
or command == "MSETNX"
or command == "PSETEX"
or command == "RENAME"
or command == "RPUSHX"
or command == "SETBIT"
or command == "XCLAIM"
or command == "XSETID"
then rule = 1
elseif false
or command == "UNLINK"
or command == "GETDEL"
then rule = 4
end
elseif length == 7 then
if false then
elseif false
or command == "HGETALL"
or command == "GEODIST"
then rule = 2
elseif false
or command == "GEOHASH"
or command == "ZMSCORE"
then rule = 7
elseif false
or command == "HEXISTS"
or command == "HSTRLEN"
then rule = 8
elseif false
or command == "PFCOUNT"
then rule = 11
elseif false
or command == "HINCRBY"
or command == "HEXPIRE"
or command == "LINSERT"
or command == "PERSIST"
or command == "PEXPIRE"
or command == "PFMERGE"
or command == "RESTORE"
or command == "ZINCRBY"
then rule = 1
elseif false
or command == "DELIFEQ"
or command == "HGETDEL"
or command == "ZPOPMAX"
or command == "ZPOPMIN"
then rule = 4
end
elseif length == 8 then
if false then
elseif false
or command == "SMEMBERS"
or command == "BITCOUNT"
or command == "GETRANGE"
or command == "ZREVRANK"
then rule = 2
elseif false
or command == "XPENDING"
then rule = 12
elseif false
or command == "BITFIELD"
or command == "EXPIREAT"
or command == "HPERSIST"
or command == "HPEXPIRE"
or command == "RENAMENX"
or command == "SETRANGE"
then rule = 1
elseif false
or command == "BZPOPMAX"
or command == "BZPOPMIN"
then rule = 4
end
elseif length == 13 then
if false then
elseif false
or command == "ZRANGEBYSCORE"
then rule = 2
end
elseif length == 9 then
if false then
elseif false
or command == "SISMEMBER"
then rule = 8
elseif false
or command == "GEOSEARCH"
or command == "XREVRANGE"
or command == "ZLEXCOUNT"
or command == "ZREVRANGE"
then rule = 2
elseif false
or command == "HEXPIREAT"
or command == "PEXPIREAT"
or command == "RPOPLPUSH"
then rule = 1
end
elseif length == 11 then
if false then
elseif false
or command == "BITFIELD_RO"
then rule = 3
elseif false
or command == "HEXPIRETIME"
or command == "PEXPIRETIME"
or command == "SRANDMEMBER"
or command == "ZRANDMEMBER"
or command == "ZRANGEBYLEX"
then rule = 2
elseif false
or command == "INCRBYFLOAT"
or command == "SINTERSTORE"
or command == "SUNIONSTORE"
or command == "ZRANGESTORE"
then rule = 1
end
elseif length == 10 then
if false then
elseif false
or command == "EXPIRETIME"
or command == "HRANDFIELD"
or command == "SMISMEMBER"
then rule = 2
elseif false
or command == "BRPOPLPUSH"
or command == "HPEXPIREAT"
or command == "SDIFFSTORE"
or command == "XAUTOCLAIM"
then rule = 1
end
elseif length == 20 then
if false then
elseif false
or command == "GEORADIUSBYMEMBER_RO"
then rule = 2
end
elseif length == 12 then
if false then
elseif false
or command == "GEORADIUS_RO"
or command == "HPEXPIRETIME"
then rule = 2
elseif false
or command == "HINCRBYFLOAT"
then rule = 1
end
elseif length == 5 then
if false then
elseif false
or command == "HKEYS"
or command == "HPTTL"
or command == "HSCAN"
or command == "HVALS"
or command == "SSCAN"
or command == "ZRANK"
or command == "ZSCAN"
then rule = 2
elseif false
or command == "HMGET"
then rule = 7
elseif false
or command == "SCARD"
or command == "ZCARD"
then rule = 8
elseif false
or command == "SDIFF"
then rule = 11
elseif false
or command == "TOUCH"
then rule = 6
elseif false
or command == "LPUSH"
or command == "RPUSH"
or command == "SETEX"
or command == "BITOP"
or command == "GETEX"
or command == "HMSET"
or command == "LMOVE"
or command == "PFADD"
or command == "SETNX"
or command == "SMOVE"
then rule = 1
elseif false
or command == "BLPOP"
or command == "BRPOP"
or command == "LTRIM"
or command == "XTRIM"
then rule = 4
end
elseif length == 14 then
if false then
elseif false
or command == "ZREVRANGEBYLEX"
then rule = 2
elseif false
or command == "GEOSEARCHSTORE"
then rule = 1
elseif false
or command == "ZREMRANGEBYLEX"
then rule = 4
end
elseif length == 16 then
if false then
elseif false
or command == "ZREVRANGEBYSCORE"
then rule = 2
elseif false
or command == "ZREMRANGEBYSCORE"
then rule = 4
end
elseif length == 15 then
if false then
elseif false
or command == "ZREMRANGEBYRANK"
then rule = 4
end
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
local first, last, step, check, rest = 5, 5, 1
local requests, reads, writes, deletes, mutates = true
local reply_length
if false then
elseif rule == 2 then
check, rest = 1, 1
reads = true
elseif rule == 6 then
last = #argv - 0
check, rest = 1, 1
elseif rule == 10 then
last = #argv - 0
check, rest = 1, 1
reads = true
reply_length = #argv - 4
elseif rule == 8 then
check, rest = 1, 1
elseif rule == 3 then
check, rest = 1, 1
reads = true
reply_length = 0
local at = 6
while argv[at] do
local word = string.upper(string.match(argv[at], '^%Z*'))
if word == 'OVERFLOW' then
at = at + 2
else
local width = tonumber(string.match(argv[at + 1] or '', '^[iu](%d+)') or 0)
if width > 53 then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at + 1]
end
reply_length = reply_length + 1
at = at + (word == 'GET' and 3 or 4)
end
end
elseif rule == 5 then
last = 4
elseif rule == 7 then
check, rest = 1, 1
reads = true
reply_length = #argv - 5
elseif rule == 9 then
last = 6
check, rest = 1, 1
reads = true
elseif rule == 11 then
last = #argv - 0
check, rest = 1, 1
reads = true
elseif rule == 12 then
check, rest = 1, 1
reads = true
reply_length = #argv == 6 and 4 or 0
elseif rule == 1 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "write"
elseif rule == 4 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "delete"
end
if code then break end
local count = 1
if first == last then
if keys[1] ~= argv[first] then code = 'KEYS_MISMATCH' end
else
count = 0
for at = first, last, step do
count = count + 1
if keys[count] ~= argv[at] then code = 'KEYS_MISMATCH' end
end
end
if code or keys[count + 1] then code = 'KEYS_MISMATCH' break end
for at = first, last, step do
key = argv[at]
if not key then break end
local matched = false
if code then
elseif check == 1 then
if not code then
matched = false
if false then
elseif find(key, "^agents:context:") then matched = true
end
if not matched then
code, detail, value = 'KEY_NOT_GRANTED', 'key', key
end
end
end
if code then break end
check = rest
end
if code then break end
local place_1
if requests and not code then
place_1 = 40 + head_1 * 8
local oldest = call('GETRANGE', "keyleash:state:agent-reader", place_1, place_1 + 7)
local free_us = 0
if oldest ~= '' then free_us = unpack_struct('<d', oldest) + 60000000 end
if free_us > now_us then
code, detail, value, at_us = 'RATE_LIMITED', 'limit', "rate.requests", free_us
else
head_1 = (head_1 + 1) % 3000
end
end
if requests and not code then
if now_us >= ends_2 then
used_2 = 0
ends_2 = now_us - (now_us - 0) % 86400000000 + 86400000000
end
if used_2 >= 200000 then
code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', "budget.requests", ends_2
else
used_2 = used_2 + 1
end
end
if code then break end
call('SETRANGE', "keyleash:state:agent-reader", 16, pack("<ddd", head_1, ends_2, used_2))
if place_1 then call('SETRANGE', "keyleash:state:agent-reader", place_1, pack('<d', now_us)) end
local event
if mutates then
local field, touched = 'key', key or ''
if count > 1 then
local parts = {}
for i = 1, #keys do parts[i] = #keys[i] .. ':' .. keys[i] .. ',' end
field, touched = 'keys', table.concat(parts)
end
if now_us % 97 == 0 then
event = call('XADD', "keyleash:audit:agent-reader", 'MAXLEN', '~', "100000", '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', "8fced0304c46")
else
event = call('XADD', "keyleash:audit:agent-reader", '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', "8fced0304c46")
end
end
if argv[3] == '3' then redis.setresp(3) end
local reply = redis.pcall(unpack(argv, 4))
if type(reply) == 'table' then
if reply.err then
if find(reply.err, '^ERR Wrong number of args') then
reply = redis.error_reply("ERR wrong number of arguments for '" .. string.lower(command) .. "' command")
elseif find(reply.err, '^ERR Unknown [%a ]*command called from') then
reply = redis.error_reply("ERR unknown command '" .. command .. "'")
elseif find(reply.err, '^ERR ACL failure in script: ') then
reply = redis.error_reply('NOPERM ' .. string.sub(reply.err, 28))
end
if event then
call('XADD', "keyleash:audit:agent-reader", '*', 'of', event, 'error', string.sub(reply.err, 1, 200))
end
elseif reply_length and argv[3] == '3' then
for i = 1, reply_length do
if reply[i] == nil then reply[i] = false end
end
redis.setresp(2)
end
elseif type(reply) == 'number' and (reply >= 9007199254740992 or reply <= -9007199254740992) then
if command == 'HINCRBY' then
reply = call('HGET', key, argv[6])
elseif find(command, '^INCR') or find(command, '^DECR') then
reply = call('GET', key)
end
end
return reply
until true
local function escaped(text)
return (string.gsub(string.sub(text, 1, 128), '[^%w:._/@+-]', function(character)
return string.format('%%%02X', string.byte(character))
end))
end
local line = 'LEASH ' .. code
if detail then line = line .. ' ' .. detail .. '=' .. escaped(value) end
if code == 'CLASS_NOT_GRANTED' then
line = line .. ' command=' .. escaped(command)
if key then line = line .. ' key=' .. escaped(key) end
elseif code == 'RATE_LIMITED' then
line = line .. ' retry_after_ms=' .. string.format('%.0f', math.ceil((at_us - now_us) / 1000))
elseif code == 'BUDGET_EXHAUSTED' then
line = line .. ' resets_at_ms=' .. string.format('%.0f', math.ceil(at_us / 1000))
end
if code ~= 'POLICY_STALE' and code ~= 'NOT_ACTIVE' then
redis.pcall('XADD', "keyleash:denied:agent-reader", 'MAXLEN', '~', "10000", '*', 'token', token_id or '-', 'code', code, 'op', string.sub(command, 1, 64), 'key', string.sub(key or '', 1, 256), 'correlation', correlation, 'policy', "8fced0304c46")
end
return redis.error_reply(line)
