local call, find = redis.call, string.find
local keys, argv = KEYS, ARGV
local token, correlation, protocol, command = argv[1] or '', argv[2] or '', argv[3], argv[4] or ''
local stop = #argv
local code, detail, value, reason, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local token_key, record, used_us, sequence
repeat
local state = call('GET', "keyleash:state:human-admin")
if not state then code = 'NOT_ACTIVE' break end
if #state < 24 then code = 'POLICY_STALE' break end
local stamp, suspended
stamp, suspended, sequence = struct.unpack("<ddd", state)
if stamp ~= 121480964929363 then code = 'POLICY_STALE' break end
if not (sequence < 9007199254740992 and sequence % 1 == 0) then sequence = 0 end
if #token <= 160 then
token_key = "keyleash:token:human-admin:" .. redis.sha1hex(token)
record = call('GET', token_key)
end
if suspended ~= 0 then
local expires_us = record and #record >= 29 and struct.unpack('<d', record) or 0
local left_ms = expires_us > 1000000000000000 and expires_us < 9007199254740992 and call('PTTL', token_key) or 0
if left_ms > 0 then
now_us = expires_us + 604800000000 - left_ms * 1000
else
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
end
if not (suspended < 9007199254740992) then suspended = 1 end
if suspended > 1 and suspended <= now_us then
redis.pcall('SETRANGE', "keyleash:state:human-admin", 8, struct.pack('<d', 0))
else
code, at_us = 'SUSPENDED', suspended
local said = suspended > 0 and redis.pcall('HGET', "keyleash:suspension:human-admin", 'reason')
if type(said) == 'string' and said ~= '' then detail, value = 'reason', string.sub(said, 1, 128) end
end
if code then break end
end
if not record or #record < 29 then code = 'TOKEN_UNKNOWN' break end
local expires_us, revoked
expires_us, used_us, revoked, token_id = struct.unpack('<ddBc12', record)
if revoked ~= 0 then
code = 'TOKEN_REVOKED'
else
now_us = expires_us + 604800000000 - call('PTTL', token_key) * 1000
if not (expires_us > now_us and now_us > 1000000000000000 and expires_us < 9007199254740992) then
code = 'TOKEN_EXPIRED'
if expires_us > 1000000000000000 and expires_us < 9007199254740992 then
detail, value = 'expired_at_ms', string.format('%.0f', expires_us / 1000)
else
now_us = nil
end
elseif not (now_us - used_us <= 901000000 and used_us < 9007199254740992) then
code = 'TOKEN_EXPIRED'
if used_us >= 0 and used_us < 9007199254740992 then
detail, value = 'idle_since_ms', string.format('%.0f', used_us / 1000)
end
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
local waits, group_at, claim_at
repeat
local length = #command
if length == 3 then
if command == "SET"
then rule = 33
elseif command == "GET"
or command == "TTL"
then rule = 2
elseif command == "DEL"
then rule = 11
end
elseif length == 4 then
if command == "HSET"
or command == "SADD"
or command == "XADD"
then rule = 1
elseif command == "HGET"
then rule = 2
elseif command == "INCR"
then rule = 10
elseif command == "LPOP"
or command == "RPOP"
then rule = 20
elseif command == "ZADD"
then rule = 47
elseif command == "MGET"
then rule = 26
elseif command == "MSET"
then rule = 27
end
elseif length == 6 then
if command == "EXPIRE"
then rule = 1
elseif command == "EXISTS"
then rule = 14
elseif command == "LRANGE"
or command == "XRANGE"
then rule = 2
elseif command == "ZRANGE"
then rule = 15
elseif command == "INCRBY"
then rule = 10
elseif command == "UNLINK"
then rule = 11
end
elseif length == 7 then
if command == "HGETALL"
then rule = 15
elseif command == "HINCRBY"
then rule = 10
end
elseif length == 5 then
if command == "LPUSH"
or command == "RPUSH"
or command == "SETEX"
then rule = 1
end
elseif length == 8 then
if command == "SMEMBERS"
then rule = 15
end
elseif length == 13 then
if command == "ZRANGEBYSCORE"
then rule = 15
end
elseif length == 9 then
if command == "SISMEMBER"
then rule = 21
end
end
if not rule then
rule, command = (function(command)
local length, rule, records = #command
if length == 6 then records = "APPEND001GEOADD001HSETEX001HSETNX001LPUSHX001PSETEX001RPUSHX001XSETID001BITPOS002GETBIT002LINDEX002SUBSTR002ZCOUNT002BLMOVE006BLMPOP007BZMPOP007DECRBY010GETSET010HGETEX010SETBIT010XCLAIM010GEOPOS016GETDEL020MSETEX028MSETNX027RENAME023SINTER032SUNION032STRLEN021VLINKS039ZINTER048ZUNION048ZSCORE015"
elseif length == 8 then records = "BITCOUNT002GETRANGE002XPENDING002BITFIELD004BZPOPMAX008BZPOPMIN008EXPIREAT001HPERSIST001HPEXPIRE001SETRANGE001RENAMENX023VGETATTR039VSETATTR038ZREVRANK015SPUBLISH030"
elseif length == 11 then records = "BITFIELD_RO003HEXPIRETIME002PEXPIRETIME002ZRANGEBYLEX002INCRBYFLOAT010SINTERSTORE029SUNIONSTORE029SRANDMEMBER015ZRANDMEMBER015VRANDMEMBER039ZINTERSTORE049ZUNIONSTORE049ZRANGESTORE019"
elseif length == 5 then records = "BITOP005BLPOP008BRPOP008GETEX010HKEYS002HMGET002HPTTL002HVALS002HMSET001PFADD001SETNX001HSCAN015SSCAN015ZRANK015ZSCAN015LMOVE023SMOVE023LMPOP024ZMPOP024LTRIM012XTRIM012SCARD021ZCARD021SDIFF032TOUCH014VCARD039VINFO039XREAD045ZDIFF048"
elseif length == 10 then records = "BRPOPLPUSH006EXPIRETIME002SMISMEMBER002HPEXPIREAT001HRANDFIELD015SDIFFSTORE029SINTERCARD034XAUTOCLAIM040XREADGROUP046ZDIFFSTORE049ZINTERCARD048"
elseif length == 4 then records = "COPY009DECR010DUMP002HTTL002LPOS002PTTL002ECHO013PING013TIME013HDEL012LREM012SREM012XDEL012ZREM012HLEN021LLEN021TYPE021XLEN021LSET001XACK001SCAN031SORT035SPOP037VADD038VREM038VDIM039VEMB039VSIM039"
elseif length == 7 then records = "DELIFEQ012GEODIST015GEOHASH002HEXISTS021HSTRLEN021HEXPIRE001LINSERT001PERSIST001PEXPIRE001HGETDEL020PFCOUNT026PFMERGE029SORT_RO036ZINCRBY038ZMSCORE016ZPOPMAX037ZPOPMIN037PUBLISH030"
elseif length == 9 then records = "GEORADIUS017GEOSEARCH015ZREVRANGE015HEXPIREAT001PEXPIREAT001RPOPLPUSH023VISMEMBER039XREVRANGE002ZLEXCOUNT002"
elseif length == 17 then records = "GEORADIUSBYMEMBER018"
elseif length == 20 then records = "GEORADIUSBYMEMBER_RO015"
elseif length == 12 then records = "GEORADIUS_RO015HINCRBYFLOAT010HPEXPIRETIME002"
elseif length == 14 then records = "GEOSEARCHSTORE019ZREMRANGEBYLEX012ZREVRANGEBYLEX002"
elseif length == 3 then records = "LCS022"
elseif length == 15 then records = "ZREMRANGEBYRANK012"
elseif length == 16 then records = "ZREMRANGEBYSCORE012ZREVRANGEBYSCORE015"
end
local at = records and find(records, command, 1, true)
while at and (at - 1) % (length + 3) ~= 0 do at = find(records, command, at + 1, true) end
if at then rule = tonumber(string.sub(records, at + length, at + length + 2)) end
if rule then
elseif command == "MEMORY" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "USAGE"
then rule = 25
end
elseif command == "OBJECT" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "ENCODING"
or subcommand == "FREQ"
or subcommand == "IDLETIME"
or subcommand == "REFCOUNT"
then rule = 25
end
elseif command == "XGROUP" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "CREATE"
or subcommand == "CREATECONSUMER"
or subcommand == "SETID"
then rule = 41
elseif subcommand == "DELCONSUMER"
or subcommand == "DESTROY"
then rule = 42
end
elseif command == "XINFO" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "CONSUMERS"
then rule = 43
elseif subcommand == "GROUPS"
or subcommand == "STREAM"
then rule = 44
end
end
return rule, command
end)(command)
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
if rule == 33 then
for at = 7, stop do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then rule = 10 break end
end
end
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
if rule == 33 then
writes = true
recorded = true
elseif rule == 2 then
reads = true
elseif rule == 1 then
writes = true
recorded = true
elseif rule == 10 then
reads = true
writes = true
recorded = true
elseif rule == 11 then
last = stop
deletes = true
recorded = true
elseif rule == 14 then
last = stop
elseif rule == 15 then
reads = true
typed = protocol == '3'
elseif rule == 20 then
reads = true
deletes = true
recorded = true
elseif rule == 47 then
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 26 then
last = stop
reads = true
elseif rule == 27 then
last = stop
step = 2
writes = true
recorded = true
elseif rule == 21 then
else
(function(rule, argv, stop, find)
if rule == 4 then
reads = true
writes = true
recorded = true
for at = 6, stop do
local width = tonumber(string.match(argv[at], '^[iu](%d+)') or 0)
if width > 53 then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
end
end
elseif rule == 3 then
reads = true
for at = 6, stop do
local width = tonumber(string.match(argv[at], '^[iu](%d+)') or 0)
if width > 53 then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
end
end
elseif rule == 5 then
first = 6
last = stop
reads = true
writes = true
recorded = true
elseif rule == 6 then
last = 6
reads = true
writes = true
deletes = true
recorded = true
waits = "first_key"
typed = protocol == '3'
elseif rule == 7 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[6] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 7
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
reads = true
deletes = true
recorded = true
waits = "any_key"
typed = protocol == '3'
elseif rule == 8 then
last = stop - 1
reads = true
deletes = true
recorded = true
waits = "any_key"
typed = protocol == '3'
elseif rule == 9 then
last = 6
reads = true
writes = true
recorded = true
for at = 7, stop do
if find(argv[at], "^[Dd][Bb]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "DB"
end
end
elseif rule == 12 then
deletes = true
recorded = true
elseif rule == 13 then
last = 4
typed = protocol == '3'
elseif rule == 16 then
reads = true
typed = protocol == '3'
mend = stop - 4 - 1
elseif rule == 17 then
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
reads = true
typed = protocol == '3'
elseif rule == 18 then
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
reads = true
typed = protocol == '3'
elseif rule == 19 then
last = 6
reads = true
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 22 then
last = 6
reads = true
typed = protocol == '3'
elseif rule == 23 then
last = 6
reads = true
writes = true
deletes = true
recorded = true
elseif rule == 24 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[5] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 6
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
reads = true
deletes = true
recorded = true
typed = protocol == '3'
elseif rule == 25 then
first = 6
last = 6
typed = protocol == '3'
elseif rule == 28 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[5] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 6
for at = first_key, math.min(first_key + (how_many - 1) * 2, stop), 2 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
writes = true
recorded = true
elseif rule == 29 then
last = stop
reads = true
writes = true
recorded = true
elseif rule == 31 then
last = 4
local glob = '*'
for at = 6, stop - 1, 2 do
if find(argv[at], "^[Mm][Aa][Tt][Cc][Hh]%f[%z]") then glob = argv[at + 1] end
end
local matched = false
key = glob
if false then
end
key = string.match(glob, '^[^*?%[\\]*')
if true then matched = true
end
key = glob
if not matched then code, detail, value = 'KEY_NOT_GRANTED', 'key', glob end
typed = protocol == '3'
mend = "scan"
elseif rule == 32 then
last = stop
reads = true
typed = protocol == '3'
elseif rule == 34 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[5] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 6
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
reads = true
elseif rule == 35 then
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
elseif rule == 36 then
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
elseif rule == 37 then
reads = true
deletes = true
recorded = true
typed = protocol == '3'
elseif rule == 38 then
reads = true
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 39 then
reads = true
writes = true
typed = protocol == '3'
elseif rule == 40 then
reads = true
writes = true
deletes = true
recorded = true
elseif rule == 41 then
first = 6
last = 6
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 42 then
first = 6
last = 6
deletes = true
recorded = true
typed = protocol == '3'
elseif rule == 43 then
first = 6
last = 6
reads = true
typed = protocol == '3'
elseif rule == 44 then
first = 6
last = 6
reads = true
typed = protocol == '3'
mend = "info"
elseif rule == 45 then
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
reads = true
typed = protocol == '3'
elseif rule == 46 then
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
reads = true
recorded = true
typed = protocol == '3'
mend = "entries"
elseif rule == 48 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[5] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 6
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
reads = true
typed = protocol == '3'
elseif rule == 49 then
walked, first, last = {}, 1, 0
if 5 <= stop then walked[1] = argv[5] end
local how_many = string.match(argv[6] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 7
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
reads = true
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 30 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "publish"
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
matched = false
if find(key, "^keyleash:") then matched = "keyleash:*"
end
if matched then code, detail, value, reason = 'KEY_DENIED', 'key', key, matched end
if code then
elseif true or check == 1 then
if not code then
matched = false
if true then matched = true
end
if not matched then
code, detail, value = 'KEY_NOT_GRANTED', 'key', key
end
end
end
if code then break end
end
if code then break end
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
if recorded then call('SETRANGE', "keyleash:state:human-admin", 16, struct.pack('<d', sequence)) end
if not (now_us - used_us < 1000000) then redis.pcall('SETRANGE', token_key, 8, struct.pack('<d', now_us)) end
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
event = call('XADD', "keyleash:audit:human-admin", '*', 'seq', sequence, 'token', token_id, 'op', command, 'cost', cost, field, touched, 'correlation', correlation, 'policy', "e141d51c4285")
end
if now_us % 7 == 0 then
call('XTRIM', "keyleash:audit:human-admin", 'MAXLEN', '~', "100000")
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
call('XADD', "keyleash:audit:human-admin", '*', 'of', event, 'error', said)
end
elseif mend == 'scan' then
local found, listed = reply[2], {}
for i = 1, #found do
local code, detail, value
local key, check = found[i], 1
local matched = false
matched = false
if find(key, "^keyleash:") then matched = "keyleash:*"
end
if matched then code, detail, value, reason = 'KEY_DENIED', 'key', key, matched end
if code then
elseif true or check == 1 then
if not code then
matched = false
if true then matched = true
end
if not matched then
code, detail, value = 'KEY_NOT_GRANTED', 'key', key
end
end
end
if not code then listed[#listed + 1] = key end
end
reply[2] = listed
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
if code == 'CLASS_NOT_GRANTED' or detail and (#value > 128 or not find(value, '^[%w:._/@+-]*$')) then
line = (function(line, code, detail, value, command, key)
local function escaped(text)
return (string.gsub(string.sub(text, 1, 128), '[^%w:._/@+-]', function(character)
return string.format('%%%02X', string.byte(character))
end))
end
line = line .. ' ' .. detail .. '=' .. escaped(value)
if code ~= 'CLASS_NOT_GRANTED' then return line end
line = line .. ' command=' .. escaped(command)
return key and line .. ' key=' .. escaped(key) or line
end)(line, code, detail, value, command, key)
elseif detail then
line = line .. ' ' .. detail .. '=' .. value
end
if code == 'RATE_LIMITED' then
line = line .. ' retry_after_ms=' .. string.format('%.0f', math.ceil((at_us - now_us) / 1000))
elseif code == 'SUSPENDED' and at_us > 1 then
line = line .. ' until_ms=' .. string.format('%.0f', math.ceil(at_us / 1000))
elseif code == 'BUDGET_EXHAUSTED' then
line = line .. ' resets_at_ms=' .. string.format('%.0f', math.ceil(at_us / 1000))
end
if code ~= 'POLICY_STALE' and code ~= 'NOT_ACTIVE' then
if detail == 'class' or detail == 'limit' then
reason = value
elseif code == 'SUSPENDED' and value then
reason = string.sub(value, 1, 256)
end
if not now_us then
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
end
local op = command
if #op > 64 then op = string.sub(op, 1, 64) end
local minute = struct.pack('<I4', (now_us - now_us % 60000000) / 60000000)
local told_apart = (detail == 'key' or detail == 'class') and op or ''
local kind = minute .. (token_id or '-') .. ':' .. code .. ':' .. told_apart .. ':' .. (reason or '')
if redis.pcall('HINCRBY', "keyleash:repeats:human-admin", kind, '1') == 1 then
(function(code, reason, op, key, token_id, correlation, minute, kind)
local counted = redis.pcall('HMGET', "keyleash:repeats:human-admin", 'seq', minute, minute .. token_id)
local seq, entries, of_token = tonumber(counted[1]) or 0, tonumber(counted[2]), tonumber(counted[3]) or 0
if counted[1] and not entries then
local counts, repeats, more = {}, {}, 0
local fields = redis.pcall('HLEN', "keyleash:repeats:human-admin") <= 512 and redis.pcall('HGETALL', "keyleash:repeats:human-admin") or {}
for i = 1, #fields, 2 do counts[fields[i]] = fields[i + 1] end
for i = 1, #fields, 2 do
local count = find(fields[i], '^id:') and counts[string.sub(fields[i], 4)]
local times = tonumber(count)
if times and times > 1 then
local last = #repeats
repeats[last + 1], repeats[last + 2], repeats[last + 3], repeats[last + 4] = 'of', fields[i + 1], 'repeats', count
more = more + times - 1
end
end
if repeats[1] then redis.pcall('XADD', "keyleash:denied:human-admin", '*', unpack(repeats)) end
redis.pcall('DEL', "keyleash:repeats:human-admin")
redis.pcall('HSET', "keyleash:repeats:human-admin", 'seq', seq, 'folded', (tonumber(counts.folded) or 0) + more, kind, 1)
end
entries = entries or 0
local wider, folded = kind, {}
if entries >= 128 or of_token >= 24 then
wider, folded = minute .. '*:' .. code, { 'folded', 'tokens' }
elseif of_token >= 8 then
wider, folded = minute .. token_id .. ':' .. code .. '::' .. reason, { 'folded', 'commands' }
end
if wider ~= kind then
redis.pcall('HDEL', "keyleash:repeats:human-admin", kind)
if redis.pcall('HINCRBY', "keyleash:repeats:human-admin", wider, '1') ~= 1 then return end
end
local of = key or ''
local id = redis.pcall('XADD', "keyleash:denied:human-admin", 'MAXLEN', '~', "10000", '*', 'seq', seq + 1, 'token', token_id, 'code', code, 'reason', reason, 'op', op, 'key', string.sub(of, 1, 256), 'correlation', correlation, 'policy', "e141d51c4285", unpack(folded))
if type(id) == 'string' then
redis.pcall('HSET', "keyleash:repeats:human-admin", 'seq', seq + 1, minute, entries + 1, minute .. token_id, of_token + 1, 'id:' .. wider, id)
end
end)(code, reason or '', op, key, token_id or '-', correlation, minute, kind)
end
end
return { err = line }
