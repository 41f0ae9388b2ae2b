local call, find = redis.call, string.find
local pack, unpack_struct = struct.pack, struct.unpack
local keys, argv = KEYS, ARGV
local token, correlation, protocol, command = argv[1] or '', argv[2] or '', argv[3], argv[4] or ''
local code, detail, value, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local token_key, record, used_us
repeat
local state = call('GET', "keyleash:state:human-admin")
if not state then code = 'NOT_ACTIVE' break end
if #state < 16 then code = 'POLICY_STALE' break end
local stamp, suspended
stamp, suspended = unpack_struct("<dd", state)
if stamp ~= 120769514255413 then code = 'POLICY_STALE' break end
if suspended ~= 0 then code = 'SUSPENDED' break end
if #token <= 160 then
token_key = "keyleash:token:human-admin:" .. redis.sha1hex(token)
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
elseif now_us - used_us > 901000000 then
code, detail, value = 'TOKEN_EXPIRED', 'idle_since_ms', string.format('%.0f', used_us / 1000)
end
end
until true
if code then break end
if #argv > 7003 then
code, detail, value = 'ARGS_TOO_MANY', 'arguments', #argv - 3
break
end
local count = 0
local rule, check, rest, reply_length
local walked, first, last, step = argv, 5, 5, 1
local requests, reads, writes, deletes, mutates = true
local waits, group_at, claim_at
repeat
local length = #command
if false then
elseif length == 3 then
if false then
elseif false
or command == "SET"
then rule = 34
elseif false
or command == "GET"
or command == "TTL"
then rule = 2
elseif false
or command == "DEL"
then rule = 11
elseif false
or command == "LCS"
then rule = 23
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
then rule = 10
elseif false
or command == "LPOP"
or command == "RPOP"
or command == "SPOP"
then rule = 19
elseif false
or command == "MGET"
then rule = 27
elseif false
or command == "MSET"
then rule = 28
elseif false
or command == "COPY"
then rule = 9
elseif false
or command == "ECHO"
or command == "PING"
or command == "TIME"
then rule = 13
elseif false
or command == "HDEL"
or command == "LREM"
or command == "SREM"
or command == "XDEL"
or command == "ZREM"
then rule = 12
elseif false
or command == "HLEN"
or command == "LLEN"
or command == "TYPE"
or command == "XLEN"
then rule = 20
elseif false
or command == "SCAN"
then rule = 33
elseif false
or command == "SORT"
then rule = 36
elseif false
or command == "VDIM"
or command == "VEMB"
or command == "VSIM"
then rule = 38
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
then rule = 14
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
then rule = 10
elseif false
or command == "UNLINK"
then rule = 11
elseif false
or command == "BLMOVE"
then rule = 6
elseif false
or command == "BLMPOP"
or command == "BZMPOP"
then rule = 7
elseif false
or command == "GEOPOS"
then rule = 15
elseif false
or command == "GETDEL"
then rule = 19
elseif false
or command == "HGETEX"
then rule = 22
elseif false
or command == "MSETEX"
then rule = 29
elseif false
or command == "MSETNX"
then rule = 28
elseif false
or command == "RENAME"
then rule = 24
elseif false
or command == "SINTER"
or command == "SUNION"
then rule = 30
elseif false
or command == "STRLEN"
then rule = 20
elseif false
or command == "VLINKS"
then rule = 38
elseif false
or command == "ZINTER"
or command == "ZUNION"
then rule = 35
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
then rule = 10
elseif false
or command == "DELIFEQ"
then rule = 12
elseif false
or command == "GEOHASH"
or command == "ZMSCORE"
then rule = 15
elseif false
or command == "HEXISTS"
or command == "HSTRLEN"
then rule = 20
elseif false
or command == "HEXPIRE"
or command == "LINSERT"
or command == "PERSIST"
or command == "PEXPIRE"
or command == "RESTORE"
then rule = 1
elseif false
or command == "HGETDEL"
then rule = 21
elseif false
or command == "PFCOUNT"
then rule = 30
elseif false
or command == "PFMERGE"
then rule = 31
elseif false
or command == "SORT_RO"
then rule = 37
elseif false
or command == "ZPOPMAX"
or command == "ZPOPMIN"
then rule = 19
elseif false
or command == "PUBLISH"
then rule = 32
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
then rule = 8
elseif false
or command == "GETEX"
then rule = 10
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
then rule = 15
elseif false
or command == "LMOVE"
or command == "SMOVE"
then rule = 24
elseif false
or command == "LMPOP"
or command == "ZMPOP"
then rule = 25
elseif false
or command == "LTRIM"
or command == "XTRIM"
then rule = 12
elseif false
or command == "SCARD"
or command == "ZCARD"
then rule = 20
elseif false
or command == "SDIFF"
then rule = 30
elseif false
or command == "TOUCH"
then rule = 14
elseif false
or command == "VCARD"
or command == "VINFO"
then rule = 38
elseif false
or command == "XREAD"
then rule = 44
elseif false
or command == "ZDIFF"
then rule = 35
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
or command == "BZPOPMAX"
or command == "BZPOPMIN"
then rule = 8
elseif false
or command == "EXPIREAT"
or command == "HPERSIST"
or command == "HPEXPIRE"
or command == "SETRANGE"
then rule = 1
elseif false
or command == "RENAMENX"
then rule = 24
elseif false
or command == "VGETATTR"
then rule = 38
elseif false
or command == "VSETATTR"
then rule = 10
elseif false
or command == "XPENDING"
then rule = 43
elseif false
or command == "SPUBLISH"
then rule = 32
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
then rule = 20
elseif false
or command == "GEORADIUS"
then rule = 16
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
then rule = 24
elseif false
or command == "VISMEMBER"
then rule = 38
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
then rule = 10
elseif false
or command == "SINTERSTORE"
or command == "SUNIONSTORE"
then rule = 31
elseif false
or command == "VRANDMEMBER"
then rule = 38
elseif false
or command == "ZINTERSTORE"
or command == "ZUNIONSTORE"
then rule = 46
elseif false
or command == "ZRANGESTORE"
then rule = 18
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
then rule = 31
elseif false
or command == "SINTERCARD"
or command == "ZINTERCARD"
then rule = 35
elseif false
or command == "XAUTOCLAIM"
then rule = 39
elseif false
or command == "XREADGROUP"
then rule = 45
elseif false
or command == "ZDIFFSTORE"
then rule = 46
end
elseif length == 17 then
if false then
elseif false
or command == "GEORADIUSBYMEMBER"
then rule = 17
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
then rule = 10
end
elseif length == 14 then
if false then
elseif false
or command == "GEOSEARCHSTORE"
then rule = 18
elseif false
or command == "ZREMRANGEBYLEX"
then rule = 12
elseif false
or command == "ZREVRANGEBYLEX"
then rule = 2
end
elseif length == 15 then
if false then
elseif false
or command == "ZREMRANGEBYRANK"
then rule = 12
end
elseif length == 16 then
if false then
elseif false
or command == "ZREMRANGEBYSCORE"
then rule = 12
elseif false
or command == "ZREVRANGEBYSCORE"
then rule = 2
end
end
if rule then
elseif command == "MEMORY" then
local subcommand = string.upper(argv[5] or '')
command = command .. ' ' .. subcommand
if false then
elseif false
or subcommand == "USAGE"
then rule = 26
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
then rule = 26
end
elseif command == "XGROUP" then
local subcommand = string.upper(argv[5] or '')
command = command .. ' ' .. subcommand
if false then
elseif false
or subcommand == "CREATE"
or subcommand == "CREATECONSUMER"
or subcommand == "SETID"
then rule = 40
elseif false
or subcommand == "DELCONSUMER"
or subcommand == "DESTROY"
then rule = 41
end
elseif command == "XINFO" then
local subcommand = string.upper(argv[5] or '')
command = command .. ' ' .. subcommand
if false then
elseif false
or subcommand == "CONSUMERS"
or subcommand == "GROUPS"
or subcommand == "STREAM"
then rule = 42
end
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
if rule == 34 then
for at = 7, #argv do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then rule = 10 break end
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
elseif rule == 34 then
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
elseif rule == 10 then
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 11 then
last = #argv - 0
check, rest = 1, 1
deletes = true
mutates = true
elseif rule == 14 then
last = #argv - 0
check, rest = 1, 1
elseif rule == 19 then
check, rest = 1, 1
reads = true
deletes = true
mutates = true
elseif rule == 27 then
last = #argv - 0
check, rest = 1, 1
reads = true
reply_length = #argv - 4
elseif rule == 28 then
last = #argv - 0
step = 2
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 20 then
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
elseif rule == 6 then
last = 6
check, rest = 1, 1
reads = true
writes = true
deletes = true
mutates = true
waits = "first_key"
elseif rule == 7 then
walked, first, last = {}, 1, 0
local counted = string.match(argv[6] or '', '^%s*%+?(%d+)')
if counted then
for at = 7, math.min(6 + counted * 1, #argv), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
check, rest = 1, 1
reads = true
deletes = true
mutates = true
waits = "any_key"
elseif rule == 8 then
last = #argv - 1
check, rest = 1, 1
reads = true
deletes = true
mutates = true
waits = "any_key"
elseif rule == 9 then
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
elseif rule == 12 then
check, rest = 1, 1
deletes = true
mutates = true
elseif rule == 13 then
last = 4
elseif rule == 15 then
check, rest = 1, 1
reads = true
reply_length = #argv - 5
elseif rule == 16 then
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
elseif rule == 17 then
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
elseif rule == 18 then
last = 6
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 21 then
check, rest = 1, 1
reads = true
deletes = true
mutates = true
for at = 6, #argv do
if find(argv[at], "^[Ff][Ii][Ee][Ll][Dd][Ss]%f[%z]") then reply_length = tonumber(argv[at + 1]) break end
end
elseif rule == 22 then
check, rest = 1, 1
reads = true
writes = true
mutates = true
for at = 6, #argv do
if find(argv[at], "^[Ff][Ii][Ee][Ll][Dd][Ss]%f[%z]") then reply_length = tonumber(argv[at + 1]) break end
end
elseif rule == 23 then
last = 6
check, rest = 1, 1
reads = true
elseif rule == 24 then
last = 6
check, rest = 1, 1
reads = true
writes = true
deletes = true
mutates = true
elseif rule == 25 then
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
deletes = true
mutates = true
elseif rule == 26 then
first = 6
last = 6
check, rest = 1, 1
elseif rule == 29 then
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
elseif rule == 30 then
last = #argv - 0
check, rest = 1, 1
reads = true
elseif rule == 31 then
last = #argv - 0
check, rest = 1, 1
reads = true
writes = true
mutates = true
elseif rule == 33 then
last = 4
check, rest = 1, 1
local glob = '*'
for at = 6, #argv - 1, 2 do
if find(argv[at], "^[Mm][Aa][Tt][Cc][Hh]%f[%z]") then glob = argv[at + 1] end
end
local matched = false
key = glob
if false then
end
key = string.match(glob, '^[^*?%[\\]*')
if false then
elseif true then matched = true
end
key = glob
if not matched then code, detail, value = 'KEY_NOT_GRANTED', 'key', glob end
elseif rule == 35 then
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
elseif rule == 36 then
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
elseif rule == 37 then
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
elseif rule == 38 then
check, rest = 1, 1
reads = true
writes = true
elseif rule == 39 then
check, rest = 1, 1
reads = true
writes = true
deletes = true
mutates = true
elseif rule == 40 then
first = 6
last = 6
check, rest = 1, 1
writes = true
mutates = true
elseif rule == 41 then
first = 6
last = 6
check, rest = 1, 1
deletes = true
mutates = true
elseif rule == 42 then
first = 6
last = 6
check, rest = 1, 1
reads = true
elseif rule == 43 then
check, rest = 1, 1
reads = true
reply_length = #argv == 6 and 4 or 0
elseif rule == 44 then
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
waits = 'block'
option_at = option_at + 2
else
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[option_at]
break
end
end
last = #walked
check, rest = 1, 1
reads = true
elseif rule == 45 then
walked, first, last = {}, 1, 0
local option_at = 5
while option_at <= #argv do
if find(argv[option_at], "^[Ss][Tt][Rr][Ee][Aa][Mm][Ss]%f[%z]") then
for at = option_at + 1, option_at + math.floor((#argv - option_at) / 2) do
walked[#walked + 1] = argv[at]
end
break
elseif find(argv[option_at], "^[Gg][Rr][Oo][Uu][Pp]%f[%z]") then
group_at = option_at + 1
option_at = option_at + 3
elseif find(argv[option_at], "^[Cc][Oo][Uu][Nn][Tt]%f[%z]") then
option_at = option_at + 2
elseif find(argv[option_at], "^[Bb][Ll][Oo][Cc][Kk]%f[%z]") then
waits = 'block'
option_at = option_at + 2
elseif find(argv[option_at], "^[Nn][Oo][Aa][Cc][Kk]%f[%z]") then
option_at = option_at + 1
elseif find(argv[option_at], "^[Cc][Ll][Aa][Ii][Mm]%f[%z]") then
claim_at = option_at + 1
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
elseif rule == 46 then
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
elseif rule == 32 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "publish"
end
if code then break end
for at = first, last, step do
local name = walked[at]
if not name then break end
count = count + 1
if keys[count] ~= name then code = 'KEYS_MISMATCH' end
end
if keys[count + 1] then code = 'KEYS_MISMATCH' end
if code then break end
for at = first, last, step do
if not walked[at] then break end
key = walked[at]
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
until true
if code then break end
local event
local ready = true
if waits == 'any_key' then
ready = last >= first and call('EXISTS', unpack(walked, first, last)) > 0
elseif waits == 'first_key' then
ready = walked[first] and call('EXISTS', walked[first]) > 0
elseif waits == 'block' and not group_at then
ready = redis.pcall(unpack(argv, 4))
elseif waits == 'block' then
ready = false
local group, consumer = argv[group_at], argv[group_at + 1]
for i = 1, #walked do
local delivered_id, known
local groups = redis.pcall('XINFO', 'GROUPS', walked[i])
for j = 1, #groups do
if groups[j][2] == group then delivered_id = groups[j][8] end
end
if delivered_id then
local consumers = call('XINFO', 'CONSUMERS', walked[i], group)
for j = 1, #consumers do known = known or consumers[j][2] == consumer end
end
local idle = known and claim_at and redis.pcall('XPENDING', walked[i], group, 'IDLE', argv[claim_at], '-', '+', '1')
if not known or argv[#argv - #walked + i] ~= '>' or idle and (idle.err or idle[1]) or redis.pcall('XRANGE', walked[i], '(' .. delivered_id, '+', 'COUNT', '1')[1] then
ready = true
break
end
end
end
if ready then
if now_us - used_us >= 1000000 then call('SETRANGE', token_key, 8, pack('<d', now_us)) end
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
end
if protocol == '3' then redis.setresp(3) end
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
call('XADD', "keyleash:audit:human-admin", '*', 'of', event, 'error', string.sub(reply.err, 1, 200))
end
elseif command == 'SCAN' then
local found, listed = reply[2], {}
for i = 1, #found do
local code, detail, value
local key, check = found[i], 1
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
if not code then listed[#listed + 1] = key end
end
reply[2] = listed
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
