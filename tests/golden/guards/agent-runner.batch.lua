local call, find = redis.call, string.find
local pack, unpack_struct = struct.pack, struct.unpack
local keys, all = KEYS, ARGV
local token, correlation, protocol, mode = all[1] or '', all[2] or '', all[3], all[4]
local code, detail, value, at_us, token_id, key, now_us, item
local command = 'BATCH'
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local token_key, record, used_us
local tat_1, ends_2, used_2, ends_3, used_3
repeat
local state = call('GET', "keyleash:state:agent-runner")
if not state then code = 'NOT_ACTIVE' break end
if #state < 56 then code = 'POLICY_STALE' break end
local stamp, suspended
stamp, suspended, tat_1, ends_2, used_2, ends_3, used_3 = unpack_struct("<ddddddd", state)
if stamp ~= 143233585621425 then code = 'POLICY_STALE' break end
if suspended ~= 0 then code = 'SUSPENDED' break end
if #token <= 160 then
token_key = "keyleash:token:agent-runner:" .. redis.sha1hex(token)
record = call('GET', token_key)
end
if not record then code = 'TOKEN_UNKNOWN' break end
local expires_us, revoked
expires_us, used_us, revoked, token_id = unpack_struct('<ddBc12', record)
if revoked ~= 0 then
code = 'TOKEN_REVOKED'
else
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
if expires_us <= now_us then
code, detail, value = 'TOKEN_EXPIRED', 'expired_at_ms', string.format('%.0f', expires_us / 1000)
end
end
until true
if code then break end
if mode ~= 'each' and mode ~= 'all' then
code, detail, value = 'COMMAND_REFUSED', 'mode', mode or ''
break
end
local event = { 'XADD', "keyleash:audit:agent-runner", '*', 'token', token_id, 'correlation', correlation, 'policy', "060616398624" }
local replies, passed, changed = {}, {}, 0
local count, n, start = 0, 0, 5
while all[start] do
n = n + 1
command, key = 'BATCH', nil
local size = tonumber(all[start]) or 0
local stop = start + size
if size < 1 or not all[stop] then
code, detail, value, item = 'COMMAND_REFUSED', 'size', all[start], n
break
end
if n > 1000 then code, detail, value = 'ARGS_TOO_MANY', 'commands', n break end
if stop - 4 - n > 7000 then
code, detail, value = 'ARGS_TOO_MANY', 'arguments', stop - 4 - n
break
end
local argv = { unpack(all, start - 2, stop) }
start = stop + 1
command = argv[4]
repeat
local rule, check, rest, reply_length
local walked, first, last, step = argv, 5, 5, 1
local requests, reads, writes, deletes, mutates = true
repeat
local length = #command
if false then
elseif length == 3 then
if false then
elseif false
or command == "SET"
then rule = 26
elseif false
or command == "GET"
or command == "TTL"
then rule = 2
elseif false
or command == "LCS"
then rule = 17
elseif false
or command == "DEL"
then rule = 6
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
or command == "VADD"
or command == "VREM"
then rule = 8
elseif false
or command == "MGET"
then rule = 19
elseif false
or command == "MSET"
then rule = 20
elseif false
or command == "COPY"
then rule = 7
elseif false
or command == "ECHO"
or command == "PING"
or command == "TIME"
then rule = 9
elseif false
or command == "HLEN"
or command == "LLEN"
or command == "TYPE"
or command == "XLEN"
then rule = 15
elseif false
or command == "SORT"
then rule = 28
elseif false
or command == "VDIM"
or command == "VEMB"
or command == "VSIM"
then rule = 30
elseif false
or command == "LPOP"
or command == "RPOP"
or command == "HDEL"
or command == "LREM"
or command == "SPOP"
or command == "SREM"
or command == "XDEL"
or command == "ZREM"
then rule = 6
elseif false
or command == "SCAN"
then rule = 25
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
then rule = 10
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
then rule = 8
elseif false
or command == "GEOPOS"
then rule = 11
elseif false
or command == "HGETEX"
then rule = 16
elseif false
or command == "MSETEX"
then rule = 21
elseif false
or command == "MSETNX"
then rule = 20
elseif false
or command == "SINTER"
or command == "SUNION"
then rule = 22
elseif false
or command == "STRLEN"
then rule = 15
elseif false
or command == "VLINKS"
then rule = 30
elseif false
or command == "ZINTER"
or command == "ZUNION"
then rule = 27
elseif false
or command == "UNLINK"
or command == "BLMOVE"
or command == "BLMPOP"
or command == "BZMPOP"
or command == "GETDEL"
or command == "RENAME"
then rule = 6
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
then rule = 8
elseif false
or command == "GEOHASH"
or command == "ZMSCORE"
then rule = 11
elseif false
or command == "HEXISTS"
or command == "HSTRLEN"
then rule = 15
elseif false
or command == "HEXPIRE"
or command == "LINSERT"
or command == "PERSIST"
or command == "PEXPIRE"
or command == "RESTORE"
then rule = 1
elseif false
or command == "PFCOUNT"
then rule = 22
elseif false
or command == "PFMERGE"
then rule = 23
elseif false
or command == "SORT_RO"
then rule = 29
elseif false
or command == "DELIFEQ"
or command == "HGETDEL"
or command == "ZPOPMAX"
or command == "ZPOPMIN"
then rule = 6
elseif false
or command == "PUBLISH"
then rule = 24
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
or command == "GETEX"
then rule = 8
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
then rule = 11
elseif false
or command == "SCARD"
or command == "ZCARD"
then rule = 15
elseif false
or command == "SDIFF"
then rule = 22
elseif false
or command == "TOUCH"
then rule = 10
elseif false
or command == "VCARD"
or command == "VINFO"
then rule = 30
elseif false
or command == "XREAD"
then rule = 34
elseif false
or command == "ZDIFF"
then rule = 27
elseif false
or command == "BLPOP"
or command == "BRPOP"
or command == "LMOVE"
or command == "LMPOP"
or command == "LTRIM"
or command == "SMOVE"
or command == "XTRIM"
or command == "ZMPOP"
then rule = 6
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
then rule = 4
elseif false
or command == "EXPIREAT"
or command == "HPERSIST"
or command == "HPEXPIRE"
or command == "SETRANGE"
then rule = 1
elseif false
or command == "VGETATTR"
then rule = 30
elseif false
or command == "VSETATTR"
then rule = 8
elseif false
or command == "XPENDING"
then rule = 33
elseif false
or command == "BZPOPMAX"
or command == "BZPOPMIN"
or command == "RENAMENX"
then rule = 6
elseif false
or command == "SPUBLISH"
then rule = 24
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
then rule = 15
elseif false
or command == "GEORADIUS"
then rule = 12
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
or command == "VISMEMBER"
then rule = 30
elseif false
or command == "RPOPLPUSH"
then rule = 6
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
then rule = 8
elseif false
or command == "SINTERSTORE"
or command == "SUNIONSTORE"
then rule = 23
elseif false
or command == "VRANDMEMBER"
then rule = 30
elseif false
or command == "ZINTERSTORE"
or command == "ZUNIONSTORE"
then rule = 36
elseif false
or command == "ZRANGESTORE"
then rule = 14
end
elseif length == 10 then
if false then
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
then rule = 23
elseif false
or command == "SINTERCARD"
or command == "ZINTERCARD"
then rule = 27
elseif false
or command == "XREADGROUP"
then rule = 35
elseif false
or command == "ZDIFFSTORE"
then rule = 36
elseif false
or command == "BRPOPLPUSH"
or command == "XAUTOCLAIM"
then rule = 6
end
elseif length == 17 then
if false then
elseif false
or command == "GEORADIUSBYMEMBER"
then rule = 13
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
then rule = 8
end
elseif length == 14 then
if false then
elseif false
or command == "GEOSEARCHSTORE"
then rule = 14
elseif false
or command == "ZREVRANGEBYLEX"
then rule = 2
elseif false
or command == "ZREMRANGEBYLEX"
then rule = 6
end
elseif length == 16 then
if false then
elseif false
or command == "ZREVRANGEBYSCORE"
then rule = 2
elseif false
or command == "ZREMRANGEBYSCORE"
then rule = 6
end
elseif length == 15 then
if false then
elseif false
or command == "ZREMRANGEBYRANK"
then rule = 6
end
end
if rule then
elseif command == "MEMORY" then
local subcommand = string.upper(argv[5] or '')
command = command .. ' ' .. subcommand
if false then
elseif false
or subcommand == "USAGE"
then rule = 18
end
elseif command == "OBJECT" then
local subcommand = string.upper(argv[5] or '')
command = command .. ' ' .. subcommand
if false then
elseif false
or subcommand == "ENCODING"
or subcommand == "FREQ"
or subcommand == "IDLETIME"
or subcommand == "REFCOUNT"
then rule = 18
end
elseif command == "XGROUP" then
local subcommand = string.upper(argv[5] or '')
command = command .. ' ' .. subcommand
if false then
elseif false
or subcommand == "CREATE"
or subcommand == "CREATECONSUMER"
or subcommand == "SETID"
then rule = 31
elseif false
or subcommand == "DELCONSUMER"
or subcommand == "DESTROY"
then rule = 6
end
elseif command == "XINFO" then
local subcommand = string.upper(argv[5] or '')
command = command .. ' ' .. subcommand
if false then
elseif false
or subcommand == "CONSUMERS"
or subcommand == "GROUPS"
or subcommand == "STREAM"
then rule = 32
end
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
if rule == 26 then
for at = 7, #argv do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then rule = 8 break end
end
end
if rule == 4 then
local at = 6
while at <= #argv do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") and at + 2 <= #argv then
at = at + 3
elseif find(argv[at], "^[Oo][Vv][Ee][Rr][Ff][Ll][Oo][Ww]%f[%z]") and at + 1 <= #argv then
at = at + 2
else
break
end
end
if at > #argv then rule = 3 end
end
if false then
elseif rule == 26 then
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
elseif rule == 8 then
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 10 then
last = #argv - 0
check, rest = 1, 1
elseif rule == 19 then
last = #argv - 0
check, rest = 1, 1
reads = true
reply_length = #argv - 4
elseif rule == 20 then
last = #argv - 0
step = 2
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 15 then
check, rest = 1, 1
elseif rule == 4 then
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
first = 6
last = #argv - 0
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 7 then
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
elseif rule == 9 then
last = 4
elseif rule == 11 then
check, rest = 1, 1
reads = true
reply_length = #argv - 5
elseif rule == 12 then
walked, first, last = {}, 1, 0
walked[1] = argv[5]
local option_at, stored = 10
while option_at < #argv do
if false then
elseif find(argv[option_at], "^[Ss][Tt][Oo][Rr][Ee]%f[%z]") then
option_at = option_at + 1
stored = argv[option_at]
elseif find(argv[option_at], "^[Ss][Tt][Oo][Rr][Ee][Dd][Ii][Ss][Tt]%f[%z]") then
option_at = option_at + 1
stored = argv[option_at]
end
option_at = option_at + 1
end
if stored then
walked[#walked + 1] = stored
writes = true
mutates = true
end
last = #walked
check, rest = 1, 1
reads = true
elseif rule == 13 then
walked, first, last = {}, 1, 0
walked[1] = argv[5]
local option_at, stored = 9
while option_at < #argv do
if false then
elseif find(argv[option_at], "^[Ss][Tt][Oo][Rr][Ee]%f[%z]") then
option_at = option_at + 1
stored = argv[option_at]
elseif find(argv[option_at], "^[Ss][Tt][Oo][Rr][Ee][Dd][Ii][Ss][Tt]%f[%z]") then
option_at = option_at + 1
stored = argv[option_at]
end
option_at = option_at + 1
end
if stored then
walked[#walked + 1] = stored
writes = true
mutates = true
end
last = #walked
check, rest = 1, 1
reads = true
elseif rule == 14 then
last = 6
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 16 then
check, rest = 1, 1
reads = true
writes = true
mutates = true
for at = 6, #argv do
if find(argv[at], "^[Ff][Ii][Ee][Ll][Dd][Ss]%f[%z]") then reply_length = tonumber(argv[at + 1]) break end
end
elseif rule == 17 then
last = 6
check, rest = 1, 1
reads = true
elseif rule == 18 then
first = 6
last = 6
check, rest = 1, 1
elseif rule == 21 then
walked, first, last = {}, 1, 0
local counted = string.match(argv[5] or '', '^%s*%+?(%d+)')
if counted then
for at = 6, math.min(4 + counted * 2, #argv), 2 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 22 then
last = #argv - 0
check, rest = 1, 1
reads = true
elseif rule == 23 then
last = #argv - 0
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 27 then
walked, first, last = {}, 1, 0
local counted = string.match(argv[5] or '', '^%s*%+?(%d+)')
if counted then
for at = 6, math.min(5 + counted * 1, #argv), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
check, rest = 1, 1
reads = true
elseif rule == 28 then
walked, first, last = {}, 1, 0
walked[1] = argv[5]
local option_at, stored = 6
while option_at < #argv do
if false then
elseif find(argv[option_at], "^[Ss][Tt][Oo][Rr][Ee]%f[%z]") then
option_at = option_at + 1
stored = argv[option_at]
end
option_at = option_at + 1
end
if stored then
walked[#walked + 1] = stored
writes = true
mutates = true
end
last = #walked
check, rest = 1, 1
reads = true
for at = 6, #argv do
if find(argv[at], "^[Bb][Yy]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "BY"
end
end
for at = 6, #argv do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "GET"
end
end
elseif rule == 29 then
check, rest = 1, 1
reads = true
for at = 6, #argv do
if find(argv[at], "^[Bb][Yy]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "BY"
end
end
for at = 6, #argv do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "GET"
end
end
elseif rule == 30 then
check, rest = 1, 1
reads = true
writes = true
elseif rule == 31 then
first = 6
last = 6
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 32 then
first = 6
last = 6
check, rest = 1, 1
reads = true
elseif rule == 33 then
check, rest = 1, 1
reads = true
reply_length = #argv == 6 and 4 or 0
elseif rule == 34 then
walked, first, last = {}, 1, 0
local option_at = 5
while option_at <= #argv do
if find(argv[option_at], "^[Ss][Tt][Rr][Ee][Aa][Mm][Ss]%f[%z]") then
for at = option_at + 1, option_at + math.floor((#argv - option_at) / 2) do
walked[#walked + 1] = argv[at]
end
break
elseif find(argv[option_at], "^[Cc][Oo][Uu][Nn][Tt]%f[%z]") then
option_at = option_at + 2
elseif find(argv[option_at], "^[Bb][Ll][Oo][Cc][Kk]%f[%z]") then
option_at = option_at + 2
else
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[option_at]
break
end
end
last = #walked
check, rest = 1, 1
reads = true
elseif rule == 35 then
walked, first, last = {}, 1, 0
local option_at = 5
while option_at <= #argv do
if find(argv[option_at], "^[Ss][Tt][Rr][Ee][Aa][Mm][Ss]%f[%z]") then
for at = option_at + 1, option_at + math.floor((#argv - option_at) / 2) do
walked[#walked + 1] = argv[at]
end
break
elseif find(argv[option_at], "^[Gg][Rr][Oo][Uu][Pp]%f[%z]") then
option_at = option_at + 3
elseif find(argv[option_at], "^[Cc][Oo][Uu][Nn][Tt]%f[%z]") then
option_at = option_at + 2
elseif find(argv[option_at], "^[Bb][Ll][Oo][Cc][Kk]%f[%z]") then
option_at = option_at + 2
elseif find(argv[option_at], "^[Nn][Oo][Aa][Cc][Kk]%f[%z]") then
option_at = option_at + 1
elseif find(argv[option_at], "^[Cc][Ll][Aa][Ii][Mm]%f[%z]") then
option_at = option_at + 2
else
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[option_at]
break
end
end
last = #walked
check, rest = 1, 1
reads = true
mutates = true
elseif rule == 36 then
walked, first, last = {}, 1, 0
walked[1] = argv[5]
local counted = string.match(argv[6] or '', '^%s*%+?(%d+)')
if counted then
for at = 7, math.min(6 + counted * 1, #argv), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 6 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "delete"
elseif rule == 24 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "publish"
elseif rule == 25 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "scan"
end
if code then break end
local compared = count
for at = first, last, step do
local name = walked[at]
if not name then break end
count = count + 1
while keys[count] and keys[count] ~= name do count = count + 1 end
if keys[count] ~= name then code = 'KEYS_MISMATCH' end
end
if code then count = compared end
if code then break end
for at = first, last, step do
if not walked[at] then break end
key = walked[at]
local matched = false
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
if code then
matched = false
if false then
elseif find(key, "^agents:jobs:[^:]+:lock$") then matched = true
end
if matched then code, detail, value = 'KEY_DENIED', 'key', key end
end
if code then break end
check = rest
end
if code then break end
local kept_tat_1, kept_ends_2, kept_used_2, kept_ends_3, kept_used_3 = tat_1, ends_2, used_2, ends_3, used_3
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
if code then tat_1, ends_2, used_2, ends_3, used_3 = kept_tat_1, kept_ends_2, kept_used_2, kept_ends_3, kept_used_3 end
until true
if code then break end
argv[1], argv[2], argv[3] = false, reply_length or false, command
if mutates then
changed = changed + 1
argv[1] = changed
local name, touched = command, key or ''
if first < last then
local parts = {}
for at = first, last, step do
if walked[at] then parts[#parts + 1] = #walked[at] .. ':' .. walked[at] .. ',' end
end
if parts[2] then name, touched = command .. ':' .. #parts, table.concat(parts) end
end
event[#event + 1] = name
event[#event + 1] = touched
end
passed[n] = argv
until true
if code and mode == 'all' then item = n break end
if code then
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
if item then line = line .. ' item=' .. item end
if code ~= 'POLICY_STALE' and code ~= 'NOT_ACTIVE' then
redis.pcall('XADD', "keyleash:denied:agent-runner", 'MAXLEN', '~', "10000", '*', 'token', token_id or '-', 'code', code, 'op', string.sub(command, 1, 64), 'key', string.sub(key or '', 1, 256), 'correlation', correlation, 'policy', "060616398624")
end
replies[n] = redis.error_reply(line)
code, detail, value = nil, nil, nil
end
end
if mode == 'all' and not code and keys[count + 1] then code, command, key = 'KEYS_MISMATCH', 'BATCH', nil end
if code then break end
call('SETRANGE', "keyleash:state:agent-runner", 16, pack("<ddddd", tat_1, ends_2, used_2, ends_3, used_3))
local event_id
if changed > 0 then
event_id = call(unpack(event))
if now_us % 97 == 0 then call('XTRIM', "keyleash:audit:agent-runner", 'MAXLEN', '~', "100000") end
end
if protocol == '3' then redis.setresp(3) end
for i = 1, n do
local argv = passed[i]
if argv then
local reply_length, command, event = argv[2], argv[3], argv[1] and event_id
local reply = redis.pcall(unpack(argv, 4))
if type(reply) == 'table' then
if reply.err then
if find(reply.err, '^ERR Wrong number of args') then
reply = redis.error_reply("ERR wrong number of arguments for '" .. string.lower((string.gsub(command, ' ', '|'))) .. "' command")
elseif find(reply.err, '^ERR Unknown [%a ]*command called from') then
reply = redis.error_reply("ERR unknown command '" .. command .. "'")
elseif find(reply.err, '^ERR ACL failure in script: ') then
reply = redis.error_reply('NOPERM ' .. string.sub(reply.err, 28))
end
if event then
call('XADD', "keyleash:audit:agent-runner", '*', 'of', event, 'item', argv[1], 'error', string.sub(reply.err, 1, 200))
end
elseif protocol == '3' then
local null = find
if reply_length then
for i = 1, reply_length do
if reply[i] == nil then reply[i] = null end
end
elseif command == 'XREADGROUP' then
for _, entries in pairs(reply.map or {}) do
for i = 1, #entries do
if entries[i][2] == nil then entries[i][2] = null end
end
end
elseif command == 'XINFO STREAM' or command == 'XINFO GROUPS' then
local info, groups = reply.map, reply
if info then
groups = info.groups
if not info.entries then
info['first-entry'], info['last-entry'] = info['first-entry'] or null, info['last-entry'] or null
groups = {}
end
end
for i = 1, #groups do
local group = groups[i].map
group['entries-read'], group.lag = group['entries-read'] or null, group.lag or null
end
end
end
elseif type(reply) == 'number' and (reply >= 9007199254740992 or reply <= -9007199254740992) then
if command == 'HINCRBY' then
reply = call('HGET', argv[5], argv[6])
elseif find(command, '^INCR') or find(command, '^DECR') then
reply = call('GET', argv[5])
end
end
if reply == nil then reply = find end
replies[i] = reply
end
end
return replies
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
if item then line = line .. ' item=' .. item end
if code ~= 'POLICY_STALE' and code ~= 'NOT_ACTIVE' then
redis.pcall('XADD', "keyleash:denied:agent-runner", 'MAXLEN', '~', "10000", '*', 'token', token_id or '-', 'code', code, 'op', string.sub(command, 1, 64), 'key', string.sub(key or '', 1, 256), 'correlation', correlation, 'policy', "060616398624")
end
return redis.error_reply(line)
