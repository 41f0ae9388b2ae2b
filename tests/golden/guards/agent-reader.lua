local call, find = redis.call, string.find
local keys, argv = KEYS, ARGV
local token, correlation, protocol, command = argv[1] or '', argv[2] or '', argv[3], argv[4] or ''
local stop = #argv
local code, detail, value, reason, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local token_key, record, used_us, sequence
local head_1, ends_2, used_2
repeat
local state = call('GETRANGE', "keyleash:state:agent-reader", 0, 47)
if state == '' then code = 'NOT_ACTIVE' break end
if #state < 48 then code = 'POLICY_STALE' break end
local stamp, suspended
stamp, suspended, sequence, head_1, ends_2, used_2 = struct.unpack("<dddddd", state)
if stamp ~= 155511885054929 then code = 'POLICY_STALE' break end
if suspended ~= 0 then code = 'SUSPENDED' break end
if #token <= 160 then
token_key = "keyleash:token:agent-reader:" .. redis.sha1hex(token)
record = call('GET', token_key)
end
if not record then code = 'TOKEN_UNKNOWN' break end
local expires_us, revoked
expires_us, used_us, revoked, token_id = struct.unpack('<ddBc12', record)
if revoked ~= 0 then
code = 'TOKEN_REVOKED'
else
now_us = expires_us + 604800000000 - call('PTTL', token_key) * 1000
if expires_us <= now_us then
code, detail, value = 'TOKEN_EXPIRED', 'expired_at_ms', string.format('%.0f', expires_us / 1000)
end
end
until true
if code then break end
if stop > 7003 then
code, detail, value = 'ARGS_TOO_MANY', 'arguments', stop - 3 .. ''
break
end
local count = 0
local rule, check, typed, mend
local walked, first, last, step = argv, 5, 5, 1
local reads, writes, deletes, recorded
local rest
local waits, group_at, claim_at
local place_1
repeat
local length = #command
if length == 3 then
if command == "GET"
or command == "TTL"
then rule = 2
end
elseif length == 4 then
if command == "HGET"
then rule = 2
elseif command == "MGET"
then rule = 15
end
elseif length == 6 then
if command == "EXISTS"
then rule = 7
elseif command == "LRANGE"
or command == "XRANGE"
then rule = 2
elseif command == "ZRANGE"
then rule = 8
end
elseif length == 7 then
if command == "HGETALL"
then rule = 8
end
elseif length == 8 then
if command == "SMEMBERS"
then rule = 8
end
elseif length == 13 then
if command == "ZRANGEBYSCORE"
then rule = 8
end
elseif length == 9 then
if command == "SISMEMBER"
then rule = 12
end
end
if not rule then
rule, command = (function(command)
local length, rule = #command
if length == 8 then
if command == "BITCOUNT"
or command == "GETRANGE"
or command == "XPENDING"
then rule = 2
elseif command == "ZREVRANK"
then rule = 8
elseif command == "BITFIELD"
then rule = 4
elseif command == "BZPOPMAX"
or command == "BZPOPMIN"
then rule = 5
elseif command == "EXPIREAT"
or command == "HPERSIST"
or command == "HPEXPIRE"
or command == "RENAMENX"
or command == "SETRANGE"
or command == "VGETATTR"
or command == "VSETATTR"
then rule = 1
elseif command == "SPUBLISH"
then rule = 16
end
elseif length == 11 then
if command == "BITFIELD_RO"
then rule = 3
elseif command == "HEXPIRETIME"
or command == "PEXPIRETIME"
or command == "ZRANGEBYLEX"
then rule = 2
elseif command == "SRANDMEMBER"
or command == "ZRANDMEMBER"
then rule = 8
elseif command == "INCRBYFLOAT"
or command == "SINTERSTORE"
or command == "SUNIONSTORE"
or command == "VRANDMEMBER"
or command == "ZINTERSTORE"
or command == "ZRANGESTORE"
or command == "ZUNIONSTORE"
then rule = 1
end
elseif length == 6 then
if command == "BITPOS"
or command == "GETBIT"
or command == "LINDEX"
or command == "SUBSTR"
or command == "ZCOUNT"
then rule = 2
elseif command == "GEOPOS"
then rule = 9
elseif command == "SINTER"
or command == "SUNION"
then rule = 18
elseif command == "STRLEN"
then rule = 12
elseif command == "ZINTER"
or command == "ZUNION"
then rule = 26
elseif command == "ZSCORE"
then rule = 8
elseif command == "EXPIRE"
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
or command == "MSETEX"
or command == "MSETNX"
or command == "PSETEX"
or command == "RENAME"
or command == "RPUSHX"
or command == "SETBIT"
or command == "VLINKS"
or command == "XCLAIM"
or command == "XSETID"
then rule = 1
elseif command == "UNLINK"
or command == "BLMPOP"
or command == "BZMPOP"
or command == "GETDEL"
then rule = 5
end
elseif length == 4 then
if command == "DUMP"
or command == "HTTL"
or command == "LPOS"
or command == "PTTL"
then rule = 2
elseif command == "ECHO"
or command == "PING"
or command == "TIME"
then rule = 6
elseif command == "HLEN"
or command == "LLEN"
or command == "TYPE"
or command == "XLEN"
then rule = 12
elseif command == "SORT"
then rule = 20
elseif command == "HSET"
or command == "INCR"
or command == "ZADD"
or command == "SADD"
or command == "XADD"
or command == "MSET"
or command == "COPY"
or command == "DECR"
or command == "LSET"
or command == "VADD"
or command == "VDIM"
or command == "VEMB"
or command == "VREM"
or command == "VSIM"
or command == "XACK"
then rule = 1
elseif command == "LPOP"
or command == "RPOP"
or command == "HDEL"
or command == "LREM"
or command == "SPOP"
or command == "SREM"
or command == "XDEL"
or command == "ZREM"
then rule = 5
elseif command == "SCAN"
then rule = 17
end
elseif length == 10 then
if command == "EXPIRETIME"
or command == "SMISMEMBER"
then rule = 2
elseif command == "HRANDFIELD"
then rule = 8
elseif command == "SINTERCARD"
then rule = 19
elseif command == "XREADGROUP"
then rule = 25
elseif command == "ZINTERCARD"
then rule = 26
elseif command == "BRPOPLPUSH"
or command == "HPEXPIREAT"
or command == "SDIFFSTORE"
or command == "XAUTOCLAIM"
or command == "ZDIFFSTORE"
then rule = 1
end
elseif length == 7 then
if command == "GEODIST"
then rule = 8
elseif command == "GEOHASH"
then rule = 2
elseif command == "HEXISTS"
or command == "HSTRLEN"
then rule = 12
elseif command == "PFCOUNT"
then rule = 15
elseif command == "SORT_RO"
then rule = 21
elseif command == "ZMSCORE"
then rule = 9
elseif command == "HINCRBY"
or command == "HEXPIRE"
or command == "LINSERT"
or command == "PERSIST"
or command == "PEXPIRE"
or command == "PFMERGE"
or command == "RESTORE"
or command == "ZINCRBY"
then rule = 1
elseif command == "DELIFEQ"
or command == "HGETDEL"
or command == "ZPOPMAX"
or command == "ZPOPMIN"
then rule = 5
elseif command == "PUBLISH"
then rule = 16
end
elseif length == 9 then
if command == "GEORADIUS"
then rule = 10
elseif command == "GEOSEARCH"
or command == "ZREVRANGE"
then rule = 8
elseif command == "XREVRANGE"
or command == "ZLEXCOUNT"
then rule = 2
elseif command == "HEXPIREAT"
or command == "PEXPIREAT"
or command == "RPOPLPUSH"
or command == "VISMEMBER"
then rule = 1
end
elseif length == 17 then
if command == "GEORADIUSBYMEMBER"
then rule = 11
end
elseif length == 20 then
if command == "GEORADIUSBYMEMBER_RO"
then rule = 8
end
elseif length == 12 then
if command == "GEORADIUS_RO"
then rule = 8
elseif command == "HPEXPIRETIME"
then rule = 2
elseif command == "HINCRBYFLOAT"
then rule = 1
end
elseif length == 5 then
if command == "HKEYS"
or command == "HMGET"
or command == "HPTTL"
or command == "HVALS"
then rule = 2
elseif command == "HSCAN"
or command == "SSCAN"
or command == "ZRANK"
or command == "ZSCAN"
then rule = 8
elseif command == "SCARD"
or command == "ZCARD"
then rule = 12
elseif command == "SDIFF"
then rule = 18
elseif command == "TOUCH"
then rule = 7
elseif command == "XREAD"
then rule = 24
elseif command == "ZDIFF"
then rule = 26
elseif command == "LPUSH"
or command == "RPUSH"
or command == "SETEX"
or command == "BITOP"
or command == "GETEX"
or command == "HMSET"
or command == "LMOVE"
or command == "PFADD"
or command == "SETNX"
or command == "SMOVE"
or command == "VCARD"
or command == "VINFO"
then rule = 1
elseif command == "BLPOP"
or command == "BRPOP"
or command == "LMPOP"
or command == "LTRIM"
or command == "XTRIM"
or command == "ZMPOP"
then rule = 5
end
elseif length == 3 then
if command == "LCS"
then rule = 13
elseif command == "SET"
then rule = 1
elseif command == "DEL"
then rule = 5
end
elseif length == 14 then
if command == "ZREVRANGEBYLEX"
then rule = 2
elseif command == "GEOSEARCHSTORE"
then rule = 1
elseif command == "ZREMRANGEBYLEX"
then rule = 5
end
elseif length == 16 then
if command == "ZREVRANGEBYSCORE"
then rule = 8
elseif command == "ZREMRANGEBYSCORE"
then rule = 5
end
elseif length == 15 then
if command == "ZREMRANGEBYRANK"
then rule = 5
end
end
if rule then
elseif command == "MEMORY" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "USAGE"
then rule = 14
end
elseif command == "OBJECT" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "ENCODING"
or subcommand == "FREQ"
or subcommand == "IDLETIME"
or subcommand == "REFCOUNT"
then rule = 14
end
elseif command == "XINFO" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "CONSUMERS"
then rule = 22
elseif subcommand == "GROUPS"
or subcommand == "STREAM"
then rule = 23
end
elseif command == "XGROUP" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "CREATE"
or subcommand == "CREATECONSUMER"
or subcommand == "SETID"
then rule = 1
elseif subcommand == "DELCONSUMER"
or subcommand == "DESTROY"
then rule = 5
end
end
return rule, command
end)(command)
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
if rule == 4 then
local at = 6
while at <= stop do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") and at + 2 <= stop then
at = at + 3
elseif find(argv[at], "^[Oo][Vv][Ee][Rr][Ff][Ll][Oo][Ww]%f[%z]") and at + 1 <= stop then
at = at + 2
else
break
end
end
if at > stop then rule = 3 end
end
if rule == 2 then
check = 1
rest = 1
reads = true
elseif rule == 7 then
last = stop
check = 1
rest = 1
elseif rule == 8 then
check = 1
rest = 1
reads = true
typed = protocol == '3'
elseif rule == 15 then
last = stop
check = 1
rest = 1
reads = true
elseif rule == 12 then
check = 1
rest = 1
else
(function(rule, argv, stop, find)
if rule == 3 then
check = 1
rest = 1
reads = true
for at = 6, stop do
local width = tonumber(string.match(argv[at], '^[iu](%d+)') or 0)
if width > 53 then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
end
end
elseif rule == 6 then
last = 4
typed = protocol == '3'
elseif rule == 9 then
check = 1
rest = 1
reads = true
typed = protocol == '3'
mend = stop - 4 - 1
elseif rule == 10 then
walked, first, last = {}, 1, 0
if 5 <= stop then walked[1] = argv[5] end
local option_at, stored = 10
while option_at < stop do
if find(argv[option_at], "^[Ss][Tt][Oo][Rr][Ee]%f[%z]") then
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
recorded = true
end
last = #walked
check = 1
rest = 2
reads = true
typed = protocol == '3'
elseif rule == 11 then
walked, first, last = {}, 1, 0
if 5 <= stop then walked[1] = argv[5] end
local option_at, stored = 9
while option_at < stop do
if find(argv[option_at], "^[Ss][Tt][Oo][Rr][Ee]%f[%z]") then
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
recorded = true
end
last = #walked
check = 1
rest = 2
reads = true
typed = protocol == '3'
elseif rule == 13 then
last = 6
check = 1
rest = 1
reads = true
typed = protocol == '3'
elseif rule == 14 then
first = 6
last = 6
check = 1
rest = 1
typed = protocol == '3'
elseif rule == 18 then
last = stop
check = 1
rest = 1
reads = true
typed = protocol == '3'
elseif rule == 19 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[5] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 6
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
check = 1
rest = 1
reads = true
elseif rule == 20 then
walked, first, last = {}, 1, 0
if 5 <= stop then walked[1] = argv[5] end
local option_at, stored = 6
while option_at < stop do
if find(argv[option_at], "^[Ss][Tt][Oo][Rr][Ee]%f[%z]") then
option_at = option_at + 1
stored = argv[option_at]
end
option_at = option_at + 1
end
if stored then
walked[#walked + 1] = stored
writes = true
recorded = true
end
last = #walked
check = 1
rest = 2
reads = true
for at = 6, stop do
if find(argv[at], "^[Bb][Yy]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "BY"
end
end
for at = 6, stop do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "GET"
end
end
typed = protocol == '3'
elseif rule == 21 then
check = 1
rest = 1
reads = true
for at = 6, stop do
if find(argv[at], "^[Bb][Yy]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "BY"
end
end
for at = 6, stop do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "GET"
end
end
typed = protocol == '3'
elseif rule == 22 then
first = 6
last = 6
check = 1
rest = 1
reads = true
typed = protocol == '3'
elseif rule == 23 then
first = 6
last = 6
check = 1
rest = 1
reads = true
typed = protocol == '3'
mend = "info"
elseif rule == 24 then
walked, first, last = {}, 1, 0
local option_at = 5
while option_at <= stop do
if find(argv[option_at], "^[Ss][Tt][Rr][Ee][Aa][Mm][Ss]%f[%z]") then
for at = option_at + 1, option_at + math.floor((stop - option_at) / 2) do
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
check = 1
rest = 1
reads = true
typed = protocol == '3'
elseif rule == 25 then
walked, first, last = {}, 1, 0
local option_at = 5
while option_at <= stop do
if find(argv[option_at], "^[Ss][Tt][Rr][Ee][Aa][Mm][Ss]%f[%z]") then
for at = option_at + 1, option_at + math.floor((stop - option_at) / 2) do
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
check = 1
rest = 1
reads = true
recorded = true
typed = protocol == '3'
mend = "entries"
elseif rule == 26 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[5] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 6
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
check = 1
rest = 1
reads = true
typed = protocol == '3'
elseif rule == 1 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "write"
elseif rule == 5 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "delete"
elseif rule == 4 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "write"
elseif rule == 16 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "publish"
elseif rule == 17 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "scan"
end
end)(rule, argv, stop, find)
end
if code then break end
if first == last then
if keys[1] ~= walked[first] or keys[2] then code = 'KEYS_MISMATCH' end
else
for at = first, last, step do
local name = walked[at]
if not name then break end
count = count + 1
if keys[count] ~= name then code = 'KEYS_MISMATCH' end
end
if keys[count + 1] then code = 'KEYS_MISMATCH' end
end
if code then break end
for at = first, last, step do
local name = walked[at]
if not name then break end
key = name
local matched = false
if code then
elseif false or check == 1 then
if not code then
matched = false
if find(key, "^agents:context:") then matched = true
end
if not matched then
code, detail, value = 'KEY_NOT_GRANTED', 'key', key
end
end
elseif false or check == 2 then
if not code then
matched = false
if false then
end
if not matched then
code, detail, value = 'KEY_NOT_GRANTED', 'key', key
if find(key, "^agents:context:") then matched = true
end
if matched then code, detail, value = 'CLASS_NOT_GRANTED', 'class', "write" end
end
end
end
if code then break end
check = rest
end
if code then break end
if true then
place_1 = 48 + head_1 * 8
local oldest = call('GETRANGE', "keyleash:state:agent-reader", place_1, place_1 + 7)
local free_us = 0
if oldest ~= '' then free_us = struct.unpack('<d', oldest) + 60000000 end
if free_us > now_us then
code, detail, value, at_us = 'RATE_LIMITED', 'limit', "rate.requests", free_us
end
if code then break end
end
if true then
if used_2 >= 200000 and now_us < ends_2 then
code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', "budget.requests", ends_2
end
if code then break end
end
if true then
head_1 = (head_1 + 1) % 3000
end
if true then
if now_us >= ends_2 then
used_2 = 0
ends_2 = now_us - (now_us - 0) % 86400000000 + 86400000000
end
used_2 = used_2 + 1
end
until true
if code then break end
local event
local ready, tried = true
if waits then
ready, tried = (function()
local ready, tried
if waits == 'any_key' then
ready = last >= first and call('EXISTS', unpack(walked, first, last)) > 0
elseif waits == 'first_key' then
ready = walked[first] and call('EXISTS', walked[first]) > 0
elseif waits == 'block' and not group_at then
if typed then redis.setresp(3) end
tried = redis.pcall(unpack(argv, 4))
ready = tried
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
if not known or argv[stop - #walked + i] ~= '>' or idle and (idle.err or idle[1]) or redis.pcall('XRANGE', walked[i], '(' .. delivered_id, '+', 'COUNT', '1')[1] then
ready = true
break
end
end
end
return ready, tried
end)()
end
if ready then
if recorded then sequence = sequence + 1 end
call('SETRANGE', "keyleash:state:agent-reader", 16, struct.pack("<dddd", sequence, head_1, ends_2, used_2))
if place_1 then call('SETRANGE', "keyleash:state:agent-reader", place_1, struct.pack('<d', now_us)) end
if recorded then
local field, touched, is_masked = 'key', key or '', false
if count > 1 then
local parts = {}
for i = 1, #keys do
local name, hidden = keys[i], false
parts[i], is_masked = #name .. ':' .. name .. ',', is_masked or hidden
end
field, touched = 'keys', table.concat(parts)
end
local cost = '1'
if reads then cost = '1,1r' end
if writes then cost = reads and '1,1r,1w' or '1,1w' end
if deletes then cost = cost .. ',1d' end
if not event then
event = call('XADD', "keyleash:audit:agent-reader", '*', 'seq', sequence, 'token', token_id, 'op', command, 'cost', cost, field, touched, 'correlation', correlation, 'policy', "8fced0304c46")
end
if now_us % 7 == 0 then
call('XTRIM', "keyleash:audit:agent-reader", 'MAXLEN', '~', "100000")
end
end
end
if typed then redis.setresp(3) end
local reply = tried
if not reply then reply = redis.pcall(unpack(argv, 4)) end
if type(reply) == 'table' then
if reply.err or mend then
reply = (function()
if reply.err then
if find(reply.err, '^ERR Wrong number of args') then
reply = redis.error_reply("ERR wrong number of arguments for '" .. string.lower((string.gsub(command, ' ', '|'))) .. "' command")
elseif find(reply.err, '^ERR Unknown [%a ]*command called from') then
reply = redis.error_reply("ERR unknown command '" .. command .. "'")
elseif find(reply.err, '^ERR ACL failure in script: ') then
reply = redis.error_reply('NOPERM ' .. string.sub(reply.err, 28))
end
local said = string.sub(reply.err, 1, 200)
if event then
call('XADD', "keyleash:audit:agent-reader", '*', 'of', event, 'error', said)
end
elseif mend and typed then
local null = find
if mend == 'entries' then
for _, entries in pairs(reply.map or {}) do
for i = 1, #entries do
if entries[i][2] == nil then entries[i][2] = null end
end
end
elseif mend == 'info' then
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
else
for i = 1, mend do
if reply[i] == nil then reply[i] = null end
end
end
end
return reply
end)()
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
local line = 'LEASH ' .. code
if detail then
local said = value
if #said > 128 or not find(said, '^[%w:._/@+-]*$') then
said = (function(said)
local function escaped(text)
return (string.gsub(string.sub(text, 1, 128), '[^%w:._/@+-]', function(character)
return string.format('%%%02X', string.byte(character))
end))
end
return escaped(said)
end)(said)
end
line = line .. ' ' .. detail .. '=' .. said
end
if code == 'CLASS_NOT_GRANTED' then
line = (function(line, command, key)
local function escaped(text)
return (string.gsub(string.sub(text, 1, 128), '[^%w:._/@+-]', function(character)
return string.format('%%%02X', string.byte(character))
end))
end
line = line .. ' command=' .. escaped(command)
return key and line .. ' key=' .. escaped(key) or line
end)(line, command, key)
elseif code == 'RATE_LIMITED' then
line = line .. ' retry_after_ms=' .. string.format('%.0f', math.ceil((at_us - now_us) / 1000))
elseif code == 'BUDGET_EXHAUSTED' then
line = line .. ' resets_at_ms=' .. string.format('%.0f', math.ceil(at_us / 1000))
end
if code ~= 'POLICY_STALE' and code ~= 'NOT_ACTIVE' then
if detail == 'class' or detail == 'limit' then reason = value end
if not now_us then
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
end
local op = command
if #op > 64 then op = string.sub(op, 1, 64) end
local minute = struct.pack('<I4', (now_us - now_us % 60000000) / 60000000)
local alike = minute .. (token_id or '-') .. ':' .. code .. ':' .. op .. ':' .. (reason or '')
if redis.pcall('HINCRBY', "keyleash:repeats:agent-reader", alike, '1') == 1 then
(function(code, reason, op, key, token_id, correlation, minute, alike)
local of = key or ''
local seq = redis.pcall('HINCRBY', "keyleash:repeats:agent-reader", 'seq', 1)
local id = redis.pcall('XADD', "keyleash:denied:agent-reader", 'MAXLEN', '~', "10000", '*', 'seq', seq, 'token', token_id, 'code', code, 'reason', reason, 'op', op, 'key', string.sub(of, 1, 256), 'correlation', correlation, 'policy', "8fced0304c46")
if type(id) == 'string' then
local held = redis.pcall('HGET', "keyleash:repeats:agent-reader", 'minute')
if held and (held ~= minute or redis.pcall('HLEN', "keyleash:repeats:agent-reader") > 256) then
local counts, ids = {}, redis.pcall('HGETALL', "keyleash:repeats:agent-reader")
for i = 1, #ids, 2 do counts[ids[i]] = ids[i + 1] end
for name, first_id in pairs(counts) do
local count = counts[string.sub(name, 4)]
if find(name, '^id:') and count and count ~= '1' then
redis.pcall('XADD', "keyleash:denied:agent-reader", '*', 'of', first_id, 'repeats', count)
end
end
redis.pcall('DEL', "keyleash:repeats:agent-reader")
redis.pcall('HSET', "keyleash:repeats:agent-reader", 'seq', seq, alike, 1)
end
redis.pcall('HSET', "keyleash:repeats:agent-reader", 'minute', minute, 'id:' .. alike, id)
end
end)(code, reason or '', op, key, token_id or '-', correlation, minute, alike)
end
end
return { err = line }
