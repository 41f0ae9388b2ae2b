local call, find = redis.call, string.find
local pack, unpack_struct = struct.pack, struct.unpack
local keys, argv = KEYS, ARGV
local token, correlation, command = argv[1] or '', argv[2] or '', argv[4] or ''
local code, detail, value, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local state = call('GET', "keyleash:state:human-admin")
if not state then code = 'NOT_ACTIVE' break end
local stamp, suspended = unpack_struct("<dd", state)
if stamp ~= 124612068530819 then code = 'POLICY_STALE' break end
if suspended ~= 0 then code = 'SUSPENDED' break end
local token_key, record
if #token <= 160 then
token_key = "keyleash:token:human-admin:" .. redis.sha1hex(token)
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
elseif now_us - used_us > 901000000 then
code, detail, value = 'TOKEN_EXPIRED', 'idle_since_ms', string.format('%.0f', used_us / 1000)
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
then rule = 22
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
then rule = 14
elseif false
or command == "SDIFF"
or command == "SINTER"
or command == "SUNION"
then rule = 20
elseif false
or command == "SDIFFSTORE"
or command == "SINTERSTORE"
or command == "SUNIONSTORE"
then rule = 21
elseif false
or command == "SETBIT"
then rule = 3
elseif false
or command == "SMOVE"
then rule = 5
elseif false
or command == "SPOP"
then rule = 13
elseif false
or command == "SREM"
then rule = 9
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
then rule = 12
elseif false
or command == "GEOSEARCHSTORE"
then rule = 7
elseif false
or command == "GETDEL"
then rule = 13
elseif false
or command == "GETEX"
or command == "GETSET"
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
or command == "HDEL"
then rule = 9
elseif false
or command == "HEXISTS"
or command == "HLEN"
or command == "HSTRLEN"
then rule = 14
elseif false
or command == "HGETDEL"
then rule = 15
elseif false
or command == "HGETEX"
then rule = 16
elseif false
or command == "HMGET"
then rule = 12
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
then rule = 11
elseif false
or command == "ECHO"
then rule = 10
elseif false
or command == "EXPIRETIME"
then rule = 2
end
elseif initial == 68 then
if false then
elseif false
or command == "DEL"
then rule = 8
elseif false
or command == "DECR"
or command == "DECRBY"
then rule = 3
elseif false
or command == "DELIFEQ"
then rule = 9
elseif false
or command == "DUMP"
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
or command == "LPOP"
then rule = 13
elseif false
or command == "LRANGE"
or command == "LINDEX"
or command == "LPOS"
then rule = 2
elseif false
or command == "LCS"
then rule = 17
elseif false
or command == "LLEN"
then rule = 14
elseif false
or command == "LMOVE"
then rule = 5
elseif false
or command == "LREM"
or command == "LTRIM"
then rule = 9
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
then rule = 13
elseif false
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
then rule = 14
elseif false
or command == "ZINCRBY"
then rule = 3
elseif false
or command == "ZMSCORE"
then rule = 12
elseif false
or command == "ZPOPMAX"
or command == "ZPOPMIN"
then rule = 13
elseif false
or command == "ZRANGESTORE"
then rule = 7
elseif false
or command == "ZREM"
or command == "ZREMRANGEBYLEX"
or command == "ZREMRANGEBYRANK"
or command == "ZREMRANGEBYSCORE"
then rule = 9
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
or command == "XAUTOCLAIM"
then rule = 23
elseif false
or command == "XCLAIM"
then rule = 3
elseif false
or command == "XDEL"
or command == "XTRIM"
then rule = 9
elseif false
or command == "XLEN"
then rule = 14
elseif false
or command == "XPENDING"
then rule = 24
end
elseif initial == 77 then
if false then
elseif false
or command == "MGET"
then rule = 18
elseif false
or command == "MSET"
or command == "MSETNX"
then rule = 19
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
then rule = 10
elseif false
or command == "TOUCH"
then rule = 11
elseif false
or command == "TYPE"
then rule = 14
end
elseif initial == 85 then
if false then
elseif false
or command == "UNLINK"
then rule = 8
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
or command == "BRPOPLPUSH"
then rule = 5
elseif false
or command == "BLPOP"
or command == "BRPOP"
or command == "BZPOPMAX"
or command == "BZPOPMIN"
then rule = 6
end
elseif initial == 67 then
if false then
elseif false
or command == "COPY"
then rule = 7
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
then rule = 20
elseif false
or command == "PFMERGE"
then rule = 21
elseif false
or command == "PING"
then rule = 10
end
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
local first, last, step, check, rest = 5, 5, 1
local requests, reads, writes, deletes, mutates = true
local reply_length
if rule == 22 then
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
last = 6
check, rest = 1, 1
reads = true
writes = true
deletes = true
mutates = true
elseif rule == 6 then
last = #argv - 1
check, rest = 1, 1
reads = true
deletes = true
mutates = true
elseif rule == 7 then
last = 6
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 8 then
last = #argv - 0
check, rest = 1, 1
deletes = true
mutates = true
elseif rule == 9 then
check, rest = 1, 1
deletes = true
mutates = true
elseif rule == 10 then
last = 4
elseif rule == 11 then
last = #argv - 0
check, rest = 1, 1
elseif rule == 12 then
check, rest = 1, 1
reads = true
reply_length = #argv - 5
elseif rule == 13 then
check, rest = 1, 1
reads = true
deletes = true
mutates = true
elseif rule == 14 then
check, rest = 1, 1
elseif rule == 15 then
check, rest = 1, 1
reads = true
deletes = true
mutates = true
for at = 6, #argv do
if string.upper(argv[at]) == 'FIELDS' then reply_length = #argv - at - 1 break end
end
elseif rule == 16 then
check, rest = 1, 1
reads = true
writes = true
mutates = true
for at = 6, #argv do
if string.upper(argv[at]) == 'FIELDS' then reply_length = #argv - at - 1 break end
end
elseif rule == 17 then
last = 6
check, rest = 1, 1
reads = true
elseif rule == 18 then
last = #argv - 0
check, rest = 1, 1
reads = true
reply_length = #argv - 4
elseif rule == 19 then
last = #argv - 0
step = 2
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 20 then
last = #argv - 0
check, rest = 1, 1
reads = true
elseif rule == 21 then
last = #argv - 0
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 22 then
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 23 then
check, rest = 1, 1
reads = true
writes = true
deletes = true
mutates = true
elseif rule == 24 then
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
elseif find(key, "^keyleash:") then matched = true
end
if matched then code, detail, value = 'KEY_DENIED', 'key', key end
if code then
elseif check == 1 then
if not code then
matched = false
if false then
elseif true then matched = true
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
if code then break end
if now_us - used_us >= 1000000 then call('SETRANGE', token_key, 8, pack('<d', now_us)) end
local event
if mutates then
local field, touched = 'key', key or ''
if count > 1 then
local parts = {}
for i = 1, #keys do parts[i] = #keys[i] .. ':' .. keys[i] .. ',' end
field, touched = 'keys', table.concat(parts)
end
if now_us % 97 == 0 then
event = call('XADD', "keyleash:audit:human-admin", 'MAXLEN', '~', "100000", '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', "22c4dcc23a0b")
else
event = call('XADD', "keyleash:audit:human-admin", '*', 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', "22c4dcc23a0b")
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
call('XADD', "keyleash:audit:human-admin", '*', 'of', event, 'error', string.sub(reply.err, 1, 200))
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
redis.pcall('XADD', "keyleash:denied:human-admin", 'MAXLEN', '~', "10000", '*', 'token', token_id or '-', 'code', code, 'op', string.sub(command, 1, 64), 'key', string.sub(key or '', 1, 256), 'correlation', correlation, 'policy', "22c4dcc23a0b")
end
return redis.error_reply(line)
