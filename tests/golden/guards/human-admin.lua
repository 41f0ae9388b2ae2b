local call, find = redis.call, string.find
local pack, unpack_struct = struct.pack, struct.unpack
local keys, argv = KEYS, ARGV
local token, correlation, command = argv[1] or '', argv[2] or '', argv[4] or ''
local code, detail, value, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local state = call('GET', "keyleash:state:human-admin")
if not state then code = 'NOT_ACTIVE' break end
if #state < 16 then code = 'POLICY_STALE' break end
local stamp, suspended = unpack_struct("<dd", state)
if stamp ~= 41077711454345 then code = 'POLICY_STALE' break end
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
local length = #command
if false then
elseif length == 3 then
if false then
elseif false
or command == "SET"
then rule = 25
elseif false
or command == "GET"
or command == "TTL"
then rule = 2
elseif false
or command == "DEL"
then rule = 10
elseif false
or command == "LCS"
then rule = 20
end
elseif length == 4 then
if false then
elseif false
or command == "HSET"
or command == "ZADD"
or command == "SADD"
or command == "XADD"
or command == "LSET"
or command == "XACK"
then rule = 1
elseif false
or command == "HGET"
or command == "DUMP"
or command == "HTTL"
or command == "LPOS"
or command == "PTTL"
then rule = 2
elseif false
or command == "INCR"
or command == "DECR"
then rule = 9
elseif false
or command == "LPOP"
or command == "RPOP"
or command == "SPOP"
then rule = 16
elseif false
or command == "MGET"
then rule = 21
elseif false
or command == "MSET"
then rule = 22
elseif false
or command == "COPY"
then rule = 8
elseif false
or command == "ECHO"
or command == "PING"
or command == "TIME"
then rule = 12
elseif false
or command == "HDEL"
or command == "LREM"
or command == "SREM"
or command == "XDEL"
or command == "ZREM"
then rule = 11
elseif false
or command == "HLEN"
or command == "LLEN"
or command == "TYPE"
or command == "XLEN"
then rule = 17
end
elseif length == 6 then
if false then
elseif false
or command == "EXPIRE"
or command == "APPEND"
or command == "GEOADD"
or command == "HSETEX"
or command == "HSETNX"
or command == "LPUSHX"
or command == "PSETEX"
or command == "RPUSHX"
or command == "XSETID"
then rule = 1
elseif false
or command == "EXISTS"
then rule = 13
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
or command == "INCRBY"
or command == "DECRBY"
or command == "GETSET"
or command == "SETBIT"
or command == "XCLAIM"
then rule = 9
elseif false
or command == "UNLINK"
then rule = 10
elseif false
or command == "BLMOVE"
or command == "RENAME"
then rule = 6
elseif false
or command == "GEOPOS"
then rule = 14
elseif false
or command == "GETDEL"
then rule = 16
elseif false
or command == "HGETEX"
then rule = 19
elseif false
or command == "MSETNX"
then rule = 22
elseif false
or command == "SINTER"
or command == "SUNION"
then rule = 23
elseif false
or command == "STRLEN"
then rule = 17
end
elseif length == 7 then
if false then
elseif false
or command == "HGETALL"
or command == "GEODIST"
then rule = 2
elseif false
or command == "HINCRBY"
or command == "ZINCRBY"
then rule = 9
elseif false
or command == "DELIFEQ"
then rule = 11
elseif false
or command == "GEOHASH"
or command == "ZMSCORE"
then rule = 14
elseif false
or command == "HEXISTS"
or command == "HSTRLEN"
then rule = 17
elseif false
or command == "HEXPIRE"
or command == "LINSERT"
or command == "PERSIST"
or command == "PEXPIRE"
or command == "RESTORE"
then rule = 1
elseif false
or command == "HGETDEL"
then rule = 18
elseif false
or command == "PFCOUNT"
then rule = 23
elseif false
or command == "PFMERGE"
then rule = 24
elseif false
or command == "ZPOPMAX"
or command == "ZPOPMIN"
then rule = 16
end
elseif length == 5 then
if false then
elseif false
or command == "LPUSH"
or command == "RPUSH"
or command == "SETEX"
or command == "HMSET"
or command == "PFADD"
or command == "SETNX"
then rule = 1
elseif false
or command == "BITOP"
then rule = 5
elseif false
or command == "BLPOP"
or command == "BRPOP"
then rule = 7
elseif false
or command == "GETEX"
then rule = 9
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
then rule = 14
elseif false
or command == "LMOVE"
or command == "SMOVE"
then rule = 6
elseif false
or command == "LTRIM"
or command == "XTRIM"
then rule = 11
elseif false
or command == "SCARD"
or command == "ZCARD"
then rule = 17
elseif false
or command == "SDIFF"
then rule = 23
elseif false
or command == "TOUCH"
then rule = 13
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
or command == "BITFIELD"
then rule = 3
elseif false
or command == "BZPOPMAX"
or command == "BZPOPMIN"
then rule = 7
elseif false
or command == "EXPIREAT"
or command == "HPERSIST"
or command == "HPEXPIRE"
or command == "SETRANGE"
then rule = 1
elseif false
or command == "RENAMENX"
then rule = 6
elseif false
or command == "XPENDING"
then rule = 27
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
then rule = 17
elseif false
or command == "GEOSEARCH"
or command == "XREVRANGE"
or command == "ZLEXCOUNT"
or command == "ZREVRANGE"
then rule = 2
elseif false
or command == "HEXPIREAT"
or command == "PEXPIREAT"
then rule = 1
elseif false
or command == "RPOPLPUSH"
then rule = 6
end
elseif length == 11 then
if false then
elseif false
or command == "BITFIELD_RO"
then rule = 4
elseif false
or command == "HEXPIRETIME"
or command == "PEXPIRETIME"
or command == "SRANDMEMBER"
or command == "ZRANDMEMBER"
or command == "ZRANGEBYLEX"
then rule = 2
elseif false
or command == "INCRBYFLOAT"
then rule = 9
elseif false
or command == "SINTERSTORE"
or command == "SUNIONSTORE"
then rule = 24
elseif false
or command == "ZRANGESTORE"
then rule = 15
end
elseif length == 10 then
if false then
elseif false
or command == "BRPOPLPUSH"
then rule = 6
elseif false
or command == "EXPIRETIME"
or command == "HRANDFIELD"
or command == "SMISMEMBER"
then rule = 2
elseif false
or command == "HPEXPIREAT"
then rule = 1
elseif false
or command == "SDIFFSTORE"
then rule = 24
elseif false
or command == "XAUTOCLAIM"
then rule = 26
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
then rule = 9
end
elseif length == 14 then
if false then
elseif false
or command == "GEOSEARCHSTORE"
then rule = 15
elseif false
or command == "ZREMRANGEBYLEX"
then rule = 11
elseif false
or command == "ZREVRANGEBYLEX"
then rule = 2
end
elseif length == 15 then
if false then
elseif false
or command == "ZREMRANGEBYRANK"
then rule = 11
end
elseif length == 16 then
if false then
elseif false
or command == "ZREMRANGEBYSCORE"
then rule = 11
elseif false
or command == "ZREVRANGEBYSCORE"
then rule = 2
end
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
local first, last, step, check, rest = 5, 5, 1
local requests, reads, writes, deletes, mutates = true
local reply_length
if rule == 25 then
for at = 7, #argv do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then rule = 9 end
end
end
if false then
elseif rule == 25 then
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 2 then
check, rest = 1, 1
reads = true
elseif rule == 1 then
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 9 then
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 10 then
last = #argv - 0
check, rest = 1, 1
deletes = true
mutates = true
elseif rule == 13 then
last = #argv - 0
check, rest = 1, 1
elseif rule == 16 then
check, rest = 1, 1
reads = true
deletes = true
mutates = true
elseif rule == 21 then
last = #argv - 0
check, rest = 1, 1
reads = true
reply_length = #argv - 4
elseif rule == 22 then
last = #argv - 0
step = 2
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 17 then
check, rest = 1, 1
elseif rule == 3 then
check, rest = 1, 1
reads = true
writes = true
mutates = true
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
elseif rule == 4 then
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
first = 6
last = #argv - 0
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 6 then
last = 6
check, rest = 1, 1
reads = true
writes = true
deletes = true
mutates = true
elseif rule == 7 then
last = #argv - 1
check, rest = 1, 1
reads = true
deletes = true
mutates = true
elseif rule == 8 then
last = 6
check, rest = 1, 1
reads = true
writes = true
mutates = true
for at = 7, #argv do
if find(argv[at], "^[Dd][Bb]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "DB"
end
end
elseif rule == 11 then
check, rest = 1, 1
deletes = true
mutates = true
elseif rule == 12 then
last = 4
elseif rule == 14 then
check, rest = 1, 1
reads = true
reply_length = #argv - 5
elseif rule == 15 then
last = 6
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 18 then
check, rest = 1, 1
reads = true
deletes = true
mutates = true
for at = 6, #argv do
if string.upper(argv[at]) == 'FIELDS' then reply_length = #argv - at - 1 break end
end
elseif rule == 19 then
check, rest = 1, 1
reads = true
writes = true
mutates = true
for at = 6, #argv do
if string.upper(argv[at]) == 'FIELDS' then reply_length = #argv - at - 1 break end
end
elseif rule == 20 then
last = 6
check, rest = 1, 1
reads = true
elseif rule == 23 then
last = #argv - 0
check, rest = 1, 1
reads = true
elseif rule == 24 then
last = #argv - 0
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 26 then
check, rest = 1, 1
reads = true
writes = true
deletes = true
mutates = true
elseif rule == 27 then
check, rest = 1, 1
reads = true
reply_length = #argv == 6 and 4 or 0
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
matched = false
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
elseif find(reply.err, '^ERR ACL failure in script: ') then
reply = redis.error_reply('NOPERM ' .. string.sub(reply.err, 28))
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
