local call, find = redis.call, string.find
local pack, unpack_struct = struct.pack, struct.unpack
local keys, argv = KEYS, ARGV
local token, correlation, command = argv[1] or '', argv[2] or '', argv[4] or ''
local code, detail, value, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local state = call('GET', "keyleash:state:agent-runner")
if not state then code = 'NOT_ACTIVE' break end
local stamp, suspended, tat_1, ends_2, used_2, ends_3, used_3 = unpack_struct("<ddddddd", state)
if stamp ~= 61167682928209 then code = 'POLICY_STALE' break end
if suspended ~= 0 then code = 'SUSPENDED' break end
local token_key, record
if #token <= 160 then
token_key = "keyleash:token:agent-runner:" .. redis.sha1hex(token)
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
then rule = 17
elseif false
or command == "SADD"
or command == "SETEX"
or command == "SETNX"
or command == "SETRANGE"
then rule = 1
elseif false
or command == "SMEMBERS"
or command == "SMISMEMBER"
or command == "SRANDMEMBER"
or command == "SSCAN"
or command == "SUBSTR"
then rule = 2
elseif false
or command == "SISMEMBER"
or command == "SCARD"
or command == "STRLEN"
then rule = 10
elseif false
or command == "SDIFF"
or command == "SINTER"
or command == "SUNION"
then rule = 15
elseif false
or command == "SDIFFSTORE"
or command == "SINTERSTORE"
or command == "SUNIONSTORE"
then rule = 16
elseif false
or command == "SETBIT"
then rule = 3
elseif false
or command == "SMOVE"
or command == "SPOP"
or command == "SREM"
then rule = 5
end
elseif initial == 71 then
if false then
elseif false
or command == "GET"
or command == "GEODIST"
or command == "GEORADIUSBYMEMBER_RO"
or command == "GEORADIUS_RO"
or command == "GEOSEARCH"
or command == "GETBIT"
or command == "GETRANGE"
then rule = 2
elseif false
or command == "GEOADD"
then rule = 1
elseif false
or command == "GEOHASH"
or command == "GEOPOS"
then rule = 9
elseif false
or command == "GEOSEARCHSTORE"
then rule = 6
elseif false
or command == "GETEX"
or command == "GETSET"
then rule = 3
elseif false
or command == "GETDEL"
then rule = 5
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
or command == "HGET"
or command == "HGETALL"
or command == "HEXPIRETIME"
or command == "HKEYS"
or command == "HPEXPIRETIME"
or command == "HPTTL"
or command == "HRANDFIELD"
or command == "HSCAN"
or command == "HTTL"
or command == "HVALS"
then rule = 2
elseif false
or command == "HINCRBY"
or command == "HINCRBYFLOAT"
then rule = 3
elseif false
or command == "HEXISTS"
or command == "HLEN"
or command == "HSTRLEN"
then rule = 10
elseif false
or command == "HGETEX"
then rule = 11
elseif false
or command == "HMGET"
then rule = 9
elseif false
or command == "HDEL"
or command == "HGETDEL"
then rule = 5
end
elseif initial == 73 then
if false then
elseif false
or command == "INCR"
or command == "INCRBY"
or command == "INCRBYFLOAT"
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
then rule = 8
elseif false
or command == "ECHO"
then rule = 7
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
or command == "LRANGE"
or command == "LINDEX"
or command == "LPOS"
then rule = 2
elseif false
or command == "LCS"
then rule = 12
elseif false
or command == "LLEN"
then rule = 10
elseif false
or command == "LPOP"
or command == "LMOVE"
or command == "LREM"
or command == "LTRIM"
then rule = 5
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
then rule = 5
end
elseif initial == 90 then
if false then
elseif false
or command == "ZADD"
then rule = 1
elseif false
or command == "ZRANGE"
or command == "ZRANGEBYSCORE"
or command == "ZCOUNT"
or command == "ZLEXCOUNT"
or command == "ZRANDMEMBER"
or command == "ZRANGEBYLEX"
or command == "ZRANK"
or command == "ZREVRANGE"
or command == "ZREVRANGEBYLEX"
or command == "ZREVRANGEBYSCORE"
or command == "ZREVRANK"
or command == "ZSCAN"
or command == "ZSCORE"
then rule = 2
elseif false
or command == "ZCARD"
then rule = 10
elseif false
or command == "ZINCRBY"
then rule = 3
elseif false
or command == "ZMSCORE"
then rule = 9
elseif false
or command == "ZRANGESTORE"
then rule = 6
elseif false
or command == "ZPOPMAX"
or command == "ZPOPMIN"
or command == "ZREM"
or command == "ZREMRANGEBYLEX"
or command == "ZREMRANGEBYRANK"
or command == "ZREMRANGEBYSCORE"
then rule = 5
end
elseif initial == 88 then
if false then
elseif false
or command == "XADD"
or command == "XACK"
or command == "XSETID"
then rule = 1
elseif false
or command == "XRANGE"
or command == "XREVRANGE"
then rule = 2
elseif false
or command == "XCLAIM"
then rule = 3
elseif false
or command == "XLEN"
then rule = 10
elseif false
or command == "XPENDING"
then rule = 18
elseif false
or command == "XAUTOCLAIM"
or command == "XDEL"
or command == "XTRIM"
then rule = 5
end
elseif initial == 77 then
if false then
elseif false
or command == "MGET"
then rule = 13
elseif false
or command == "MSET"
or command == "MSETNX"
then rule = 14
elseif false
or command == "MOVE"
then rule = 3
end
elseif initial == 84 then
if false then
elseif false
or command == "TTL"
then rule = 2
elseif false
or command == "TIME"
then rule = 7
elseif false
or command == "TOUCH"
then rule = 8
elseif false
or command == "TYPE"
then rule = 10
end
elseif initial == 65 then
if false then
elseif false
or command == "APPEND"
then rule = 1
end
elseif initial == 66 then
if false then
elseif false
or command == "BITCOUNT"
or command == "BITFIELD_RO"
or command == "BITPOS"
then rule = 2
elseif false
or command == "BITFIELD"
then rule = 3
elseif false
or command == "BITOP"
then rule = 4
elseif false
or command == "BLMOVE"
or command == "BLPOP"
or command == "BRPOP"
or command == "BRPOPLPUSH"
or command == "BZPOPMAX"
or command == "BZPOPMIN"
then rule = 5
end
elseif initial == 67 then
if false then
elseif false
or command == "COPY"
then rule = 6
end
elseif initial == 68 then
if false then
elseif false
or command == "DECR"
or command == "DECRBY"
then rule = 3
elseif false
or command == "DUMP"
then rule = 2
elseif false
or command == "DEL"
or command == "DELIFEQ"
then rule = 5
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
or command == "PEXPIRETIME"
or command == "PTTL"
then rule = 2
elseif false
or command == "PFCOUNT"
then rule = 15
elseif false
or command == "PFMERGE"
then rule = 16
elseif false
or command == "PING"
then rule = 7
end
elseif initial == 85 then
if false then
elseif false
or command == "UNLINK"
then rule = 5
end
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
local first, last, step, check, rest = 5, 5, 1
local requests, reads, writes, deletes, mutates = true
local reply_length
if rule == 17 then
for at = 7, #argv do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then rule = 3 end
end
end
if false then
elseif rule == 1 then
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 2 then
check, rest = 1, 1
reads = true
elseif rule == 3 then
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 4 then
first = 6
last = #argv - 0
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 5 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "delete"
elseif rule == 6 then
last = 6
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 7 then
last = 4
elseif rule == 8 then
last = #argv - 0
check, rest = 1, 1
elseif rule == 9 then
check, rest = 1, 1
reads = true
reply_length = #argv - 5
elseif rule == 10 then
check, rest = 1, 1
elseif rule == 11 then
check, rest = 1, 1
reads = true
writes = true
mutates = true
for at = 6, #argv do
if string.upper(argv[at]) == 'FIELDS' then reply_length = #argv - at - 1 break end
end
elseif rule == 12 then
last = 6
check, rest = 1, 1
reads = true
elseif rule == 13 then
last = #argv - 0
check, rest = 1, 1
reads = true
reply_length = #argv - 4
elseif rule == 14 then
last = #argv - 0
step = 2
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 15 then
last = #argv - 0
check, rest = 1, 1
reads = true
elseif rule == 16 then
last = #argv - 0
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 17 then
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 18 then
check, rest = 1, 1
reads = true
reply_length = #argv == 6 and 4 or 0
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
if false then
elseif find(key, "^agents:jobs:[^:]+:lock$") then matched = true
end
if matched then code, detail, value = 'KEY_DENIED', 'key', key end
if code then
elseif check == 1 then
if not code then
matched = false
if false then
elseif find(key, "^agents:jobs:[^:]+:state$") then matched = true
elseif find(key, "^agents:jobs:[^:]+:result$") then matched = true
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
if writes and not code then
if tat_1 < now_us then tat_1 = now_us end
if tat_1 - 5900000 > now_us then
code, detail, value = 'RATE_LIMITED', 'limit', "rate.writes"
at_us = tat_1 - 5900000
else
tat_1 = tat_1 + 100000
end
end
if requests and not code then
if now_us >= ends_2 then
used_2 = 0
ends_2 = now_us - (now_us - 0) % 86400000000 + 86400000000
end
if used_2 >= 50000 then
code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', "budget.requests", ends_2
else
used_2 = used_2 + 1
end
end
if writes and not code then
if now_us >= ends_3 then
used_3 = 0
local start_us, until_us, step_us
if false then
elseif now_us < 1774738800000000 then
start_us, until_us, step_us = 1767222000000000, 1774738800000000, 86400000000
elseif now_us < 1774821600000000 then
start_us, until_us, step_us = 1774738800000000, 1774821600000000, 82800000000
elseif now_us < 1792879200000000 then
start_us, until_us, step_us = 1774821600000000, 1792879200000000, 86400000000
elseif now_us < 1792969200000000 then
start_us, until_us, step_us = 1792879200000000, 1792969200000000, 90000000000
elseif now_us < 1806188400000000 then
start_us, until_us, step_us = 1792969200000000, 1806188400000000, 86400000000
elseif now_us < 1806271200000000 then
start_us, until_us, step_us = 1806188400000000, 1806271200000000, 82800000000
elseif now_us < 1824933600000000 then
start_us, until_us, step_us = 1806271200000000, 1824933600000000, 86400000000
elseif now_us < 1825023600000000 then
start_us, until_us, step_us = 1824933600000000, 1825023600000000, 90000000000
elseif now_us < 1837638000000000 then
start_us, until_us, step_us = 1825023600000000, 1837638000000000, 86400000000
elseif now_us < 1837720800000000 then
start_us, until_us, step_us = 1837638000000000, 1837720800000000, 82800000000
elseif now_us < 1856383200000000 then
start_us, until_us, step_us = 1837720800000000, 1856383200000000, 86400000000
elseif now_us < 1856473200000000 then
start_us, until_us, step_us = 1856383200000000, 1856473200000000, 90000000000
elseif now_us < 1869087600000000 then
start_us, until_us, step_us = 1856473200000000, 1869087600000000, 86400000000
elseif now_us < 1869170400000000 then
start_us, until_us, step_us = 1869087600000000, 1869170400000000, 82800000000
elseif now_us < 1887832800000000 then
start_us, until_us, step_us = 1869170400000000, 1887832800000000, 86400000000
elseif now_us < 1887922800000000 then
start_us, until_us, step_us = 1887832800000000, 1887922800000000, 90000000000
elseif now_us < 1901142000000000 then
start_us, until_us, step_us = 1887922800000000, 1901142000000000, 86400000000
elseif now_us < 1901224800000000 then
start_us, until_us, step_us = 1901142000000000, 1901224800000000, 82800000000
elseif now_us < 1919282400000000 then
start_us, until_us, step_us = 1901224800000000, 1919282400000000, 86400000000
elseif now_us < 1919372400000000 then
start_us, until_us, step_us = 1919282400000000, 1919372400000000, 90000000000
elseif now_us < 1932591600000000 then
start_us, until_us, step_us = 1919372400000000, 1932591600000000, 86400000000
elseif now_us < 1932674400000000 then
start_us, until_us, step_us = 1932591600000000, 1932674400000000, 82800000000
elseif now_us < 1950732000000000 then
start_us, until_us, step_us = 1932674400000000, 1950732000000000, 86400000000
elseif now_us < 1950822000000000 then
start_us, until_us, step_us = 1950732000000000, 1950822000000000, 90000000000
elseif true then
start_us, until_us, step_us = 1950822000000000, math.huge, 86400000000
end
ends_3 = math.min(now_us - (now_us - start_us) % step_us + step_us, until_us)
end
if used_3 >= 20000 then
code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', "budget.writes", ends_3
else
used_3 = used_3 + 1
end
end
if code then break end
call('SETRANGE', "keyleash:state:agent-runner", 16, pack("<ddddd", tat_1, ends_2, used_2, ends_3, used_3))
local event
if mutates then
local field, touched = 'key', key or ''
if count > 1 then
local parts = {}
for i = 1, #keys do parts[i] = #keys[i] .. ':' .. keys[i] .. ',' end
field, touched = 'keys', table.concat(parts)
end
if now_us % 97 == 0 then
event = call('XADD', "keyleash:audit:agent-runner", 'MAXLEN', '~', "100000", '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', "060616398624")
else
event = call('XADD', "keyleash:audit:agent-runner", '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', "060616398624")
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
call('XADD', "keyleash:audit:agent-runner", '*', 'of', event, 'error', string.sub(reply.err, 1, 200))
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
redis.pcall('XADD', "keyleash:denied:agent-runner", 'MAXLEN', '~', "10000", '*', 'token', token_id or '-', 'code', code, 'op', string.sub(command, 1, 64), 'key', string.sub(key or '', 1, 256), 'correlation', correlation, 'policy', "060616398624")
end
return redis.error_reply(line)
