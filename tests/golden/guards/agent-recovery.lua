local call, find = redis.call, string.find
local pack, unpack_struct = struct.pack, struct.unpack
local keys, argv = KEYS, ARGV
local token, correlation, command = argv[1] or '', argv[2] or '', argv[4] or ''
local code, detail, value, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local state = call('GETRANGE', "keyleash:state:agent-recovery", 0, 39)
if state == '' then code = 'NOT_ACTIVE' break end
local stamp, suspended, head_1, ends_2, used_2 = unpack_struct("<ddddd", state)
if stamp ~= 220978252148299 then code = 'POLICY_STALE' break end
if suspended ~= 0 then code = 'SUSPENDED' break end
local token_key, record
if #token <= 160 then
token_key = "keyleash:token:agent-recovery:" .. redis.sha1hex(token)
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
local initial = string.byte(command)
if false then
elseif initial == 83 then
if false then
elseif false
or command == "SET"
then rule = 8
elseif false
or command == "SADD"
or command == "SETEX"
or command == "SETNX"
or command == "SETRANGE"
then rule = 1
elseif false
or command == "SISMEMBER"
or command == "SCARD"
or command == "STRLEN"
then rule = 6
elseif false
or command == "SMEMBERS"
or command == "SDIFF"
or command == "SDIFFSTORE"
or command == "SETBIT"
or command == "SINTER"
or command == "SINTERSTORE"
or command == "SMISMEMBER"
or command == "SMOVE"
or command == "SPOP"
or command == "SRANDMEMBER"
or command == "SSCAN"
or command == "SUBSTR"
or command == "SUNION"
or command == "SUNIONSTORE"
then rule = 2
elseif false
or command == "SREM"
then rule = 3
end
elseif initial == 72 then
if false then
elseif false
or command == "HSET"
or command == "HEXPIRE"
or command == "HEXPIREAT"
or command == "HMSET"
or command == "HPERSIST"
or command == "HPEXPIRE"
or command == "HPEXPIREAT"
or command == "HSETEX"
or command == "HSETNX"
then rule = 1
elseif false
or command == "HEXISTS"
or command == "HLEN"
or command == "HSTRLEN"
then rule = 6
elseif false
or command == "HGET"
or command == "HGETALL"
or command == "HINCRBY"
or command == "HEXPIRETIME"
or command == "HGETDEL"
or command == "HGETEX"
or command == "HINCRBYFLOAT"
or command == "HKEYS"
or command == "HMGET"
or command == "HPEXPIRETIME"
or command == "HPTTL"
or command == "HRANDFIELD"
or command == "HSCAN"
or command == "HTTL"
or command == "HVALS"
then rule = 2
elseif false
or command == "HDEL"
then rule = 3
end
elseif initial == 69 then
if false then
elseif false
or command == "EXPIRE"
or command == "EXPIREAT"
then rule = 1
elseif false
or command == "EXISTS"
then rule = 5
elseif false
or command == "ECHO"
then rule = 4
elseif false
or command == "EXPIRETIME"
then rule = 2
end
elseif initial == 76 then
if false then
elseif false
or command == "LPUSH"
or command == "LINSERT"
or command == "LPUSHX"
or command == "LSET"
then rule = 1
elseif false
or command == "LLEN"
then rule = 6
elseif false
or command == "LPOP"
or command == "LRANGE"
or command == "LCS"
or command == "LINDEX"
or command == "LMOVE"
or command == "LPOS"
then rule = 2
elseif false
or command == "LREM"
or command == "LTRIM"
then rule = 3
end
elseif initial == 82 then
if false then
elseif false
or command == "RPUSH"
or command == "RESTORE"
or command == "RPUSHX"
then rule = 1
elseif false
or command == "RPOP"
or command == "RENAME"
or command == "RENAMENX"
or command == "RPOPLPUSH"
then rule = 2
end
elseif initial == 90 then
if false then
elseif false
or command == "ZADD"
then rule = 1
elseif false
or command == "ZCARD"
then rule = 6
elseif false
or command == "ZRANGE"
or command == "ZRANGEBYSCORE"
or command == "ZCOUNT"
or command == "ZINCRBY"
or command == "ZLEXCOUNT"
or command == "ZMSCORE"
or command == "ZPOPMAX"
or command == "ZPOPMIN"
or command == "ZRANDMEMBER"
or command == "ZRANGEBYLEX"
or command == "ZRANGESTORE"
or command == "ZRANK"
or command == "ZREVRANGE"
or command == "ZREVRANGEBYLEX"
or command == "ZREVRANGEBYSCORE"
or command == "ZREVRANK"
or command == "ZSCAN"
or command == "ZSCORE"
then rule = 2
elseif false
or command == "ZREM"
or command == "ZREMRANGEBYLEX"
or command == "ZREMRANGEBYRANK"
or command == "ZREMRANGEBYSCORE"
then rule = 3
end
elseif initial == 88 then
if false then
elseif false
or command == "XADD"
or command == "XACK"
or command == "XSETID"
then rule = 1
elseif false
or command == "XLEN"
then rule = 6
elseif false
or command == "XRANGE"
or command == "XAUTOCLAIM"
or command == "XCLAIM"
or command == "XPENDING"
or command == "XREVRANGE"
then rule = 2
elseif false
or command == "XDEL"
or command == "XTRIM"
then rule = 3
end
elseif initial == 77 then
if false then
elseif false
or command == "MSET"
or command == "MSETNX"
then rule = 7
elseif false
or command == "MGET"
or command == "MOVE"
then rule = 2
end
elseif initial == 65 then
if false then
elseif false
or command == "APPEND"
then rule = 1
end
elseif initial == 71 then
if false then
elseif false
or command == "GEOADD"
then rule = 1
elseif false
or command == "GET"
or command == "GEODIST"
or command == "GEOHASH"
or command == "GEOPOS"
or command == "GEORADIUSBYMEMBER_RO"
or command == "GEORADIUS_RO"
or command == "GEOSEARCH"
or command == "GEOSEARCHSTORE"
or command == "GETBIT"
or command == "GETDEL"
or command == "GETEX"
or command == "GETRANGE"
or command == "GETSET"
then rule = 2
end
elseif initial == 80 then
if false then
elseif false
or command == "PERSIST"
or command == "PEXPIRE"
or command == "PEXPIREAT"
or command == "PFADD"
or command == "PSETEX"
then rule = 1
elseif false
or command == "PING"
then rule = 4
elseif false
or command == "PEXPIRETIME"
or command == "PFCOUNT"
or command == "PFMERGE"
or command == "PTTL"
then rule = 2
end
elseif initial == 84 then
if false then
elseif false
or command == "TIME"
then rule = 4
elseif false
or command == "TOUCH"
then rule = 5
elseif false
or command == "TYPE"
then rule = 6
elseif false
or command == "TTL"
then rule = 2
end
elseif initial == 73 then
if false then
elseif false
or command == "INCR"
or command == "INCRBY"
or command == "INCRBYFLOAT"
then rule = 2
end
elseif initial == 68 then
if false then
elseif false
or command == "DEL"
or command == "DELIFEQ"
then rule = 3
elseif false
or command == "DECR"
or command == "DECRBY"
or command == "DUMP"
then rule = 2
end
elseif initial == 85 then
if false then
elseif false
or command == "UNLINK"
then rule = 3
end
elseif initial == 66 then
if false then
elseif false
or command == "BITCOUNT"
or command == "BITFIELD"
or command == "BITFIELD_RO"
or command == "BITOP"
or command == "BITPOS"
or command == "BLMOVE"
or command == "BLPOP"
or command == "BRPOP"
or command == "BRPOPLPUSH"
or command == "BZPOPMAX"
or command == "BZPOPMIN"
then rule = 2
end
elseif initial == 67 then
if false then
elseif false
or command == "COPY"
then rule = 2
end
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
local first, last, step, check, rest = 5, 5, 1
local requests, reads, writes, deletes, mutates = true
local reply_length
if rule == 8 then
for at = 7, #argv do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then rule = 2 end
end
end
if false then
elseif rule == 1 then
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 2 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "read"
elseif rule == 3 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "delete"
elseif rule == 4 then
last = 4
elseif rule == 5 then
last = #argv - 0
check, rest = 1, 1
elseif rule == 6 then
check, rest = 1, 1
elseif rule == 7 then
last = #argv - 0
step = 2
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 8 then
check, rest = 1, 1
writes = true
mutates = true
end
if code then break end
local count = 0
for at = first, last, step do
count = count + 1
if keys[count] ~= argv[at] then code = 'KEYS_MISMATCH' end
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
elseif find(key, "^agents:recovery:") then matched = true
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
if writes and not code then
place_1 = 40 + head_1 * 8
local oldest = call('GETRANGE', "keyleash:state:agent-recovery", place_1, place_1 + 7)
local free_us = 0
if oldest ~= '' then free_us = unpack_struct('<d', oldest) + 60000000 end
if free_us > now_us then
code, detail, value, at_us = 'RATE_LIMITED', 'limit', "rate.writes", free_us
else
head_1 = (head_1 + 1) % 60
end
end
if requests and not code then
if now_us >= ends_2 then
used_2 = 0
ends_2 = now_us - (now_us - 0) % 86400000000 + 86400000000
end
if used_2 >= 5000 then
code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', "budget.requests", ends_2
else
used_2 = used_2 + 1
end
end
if code then break end
call('SETRANGE', "keyleash:state:agent-recovery", 16, pack("<ddd", head_1, ends_2, used_2))
if place_1 then call('SETRANGE', "keyleash:state:agent-recovery", place_1, pack('<d', now_us)) end
local event
if mutates then
local field, touched = 'key', key or ''
if count > 1 then
local parts = {}
for i = 1, #keys do parts[i] = #keys[i] .. ':' .. keys[i] .. ',' end
field, touched = 'keys', table.concat(parts)
end
if now_us % 97 == 0 then
event = call('XADD', "keyleash:audit:agent-recovery", 'MAXLEN', '~', "100000", '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', "30205db20396")
else
event = call('XADD', "keyleash:audit:agent-recovery", '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', "30205db20396")
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
end
if event then
call('XADD', "keyleash:audit:agent-recovery", '*', 'of', event, 'error', string.sub(reply.err, 1, 200))
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
redis.pcall('XADD', "keyleash:denied:agent-recovery", 'MAXLEN', '~', "10000", '*', 'token', token_id or '-', 'code', code, 'op', string.sub(command, 1, 64), 'key', string.sub(key or '', 1, 256), 'correlation', correlation, 'policy', "30205db20396")
end
return redis.error_reply(line)
