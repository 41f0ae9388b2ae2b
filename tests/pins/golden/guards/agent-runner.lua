local call, find = redis.call, string.find
local keys, argv = KEYS, ARGV
local token, correlation, command = argv[1] or '', argv[2] or '', argv[3] or ''
local stop = #argv
if stop > 2000 then collectgarbage('step', 16384) end
local code, detail, value, amount, reason, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local token_key, record, used_us, sequence
local tat_1, ends_2, used_2, ends_3, used_3
repeat
local state = call('GET', "keyleash:state:agent-runner")
if not state then code = 'NOT_ACTIVE' break end
if #state < 64 then code = 'POLICY_STALE' break end
local stamp, suspended
stamp, suspended, sequence, tat_1, ends_2, used_2, ends_3, used_3 = struct.unpack("<dddddddd", state)
if stamp ~= 197956164114807 then code = 'POLICY_STALE' break end
if not (sequence < 9007199254740992 and sequence % 1 == 0) then sequence = 0 end
if #token <= 160 then
token_key = "keyleash:token:agent-runner:" .. redis.sha1hex(token)
record = call('GET', token_key)
end
if not record or #record < 29 then code = 'TOKEN_UNKNOWN' break end
local expires_us, revoked
expires_us, used_us, revoked, token_id = struct.unpack('<ddBc12', record)
if revoked ~= 0 then
code = 'TOKEN_REVOKED'
if revoked % 4 == 2 then detail, value = 'bound', 'off' end
else
now_us = expires_us + 604800000000 - call('PTTL', token_key) * 1000
if not (expires_us > now_us and expires_us < 9007199254740992) then
code = 'TOKEN_EXPIRED'
if expires_us >= 0 and expires_us < 9007199254740992 then
detail, value = 'expired_at_ms', string.format('%.0f', expires_us / 1000)
else
now_us = nil
end
end
end
if suspended ~= 0 and not code then
if not (suspended < 9007199254740992) then suspended = 1 end
if suspended > 1 and suspended <= now_us then
redis.pcall('SETRANGE', "keyleash:state:agent-runner", 8, struct.pack('<d', 0))
else
code, at_us = 'SUSPENDED', suspended
local stored = redis.pcall('HGET', "keyleash:suspension:agent-runner", 'reason')
if type(stored) == 'string' and stored ~= '' then detail, value = 'reason', string.sub(stored, 1, 128) end
end
end
until true
if code then break end
if stop > 7002 then
code, detail, value = 'ARGS_TOO_MANY', 'arguments', stop - 2 .. ''
break
end
local count = 0
local rule, check, restore
local walked, first, last, step = argv, 4, 4, 1
local reads, writes, deletes, recorded
local weighs, lengthens
local work, sent = 0, 0
local waits, group_at, claim_at
repeat
local length = #command
if length == 3 then
if command == "SET"
then rule = 36
elseif command == "GET"
or command == "TTL"
then rule = 13
end
elseif length == 4 then
if command == "HSET"
or command == "ZADD"
or command == "SADD"
then rule = 12
elseif command == "HGET"
then rule = 13
elseif command == "INCR"
then rule = 9
elseif command == "XADD"
then rule = 43
elseif command == "MGET"
then rule = 25
elseif command == "MSET"
then rule = 26
end
elseif length == 6 then
if command == "EXPIRE"
then rule = 12
elseif command == "EXISTS"
then rule = 11
elseif command == "LRANGE"
then rule = 23
elseif command == "ZRANGE"
then rule = 51
elseif command == "XRANGE"
then rule = 2
elseif command == "INCRBY"
then rule = 9
end
elseif length == 7 then
if command == "HGETALL"
then rule = 2
elseif command == "HINCRBY"
then rule = 9
end
elseif length == 5 then
if command == "LPUSH"
or command == "RPUSH"
then rule = 12
elseif command == "SETEX"
then rule = 37
end
elseif length == 8 then
if command == "SMEMBERS"
then rule = 2
end
elseif length == 13 then
if command == "ZRANGEBYSCORE"
then rule = 2
end
elseif length == 9 then
if command == "SISMEMBER"
then rule = 18
end
end
if not rule then
rule, command = (function(command)
local length, rule, records = #command
if length == 6 then records = "APPEND001PSETEX001BITPOS002LINDEX002DECRBY009GEOADD012HSETEX012HSETNX012LPUSHX012RPUSHX012XSETID012GEOPOS013GETBIT013SUBSTR013ZCOUNT013ZSCORE013GETSET017SETBIT017HGETEX019MSETEX027MSETNX028SINTER030SUNION030STRLEN018VLINKS041XCLAIM044ZINTER038ZUNION038UNLINK007BLMOVE007BLMPOP007BZMPOP007GETDEL007RENAME007"
elseif length == 8 then records = "BITCOUNT002XPENDING002BITFIELD004EXPIREAT012HPERSIST012HPEXPIRE012GETRANGE013ZREVRANK013SETRANGE001VGETATTR041VSETATTR009BZPOPMAX007BZPOPMIN007RENAMENX007SPUBLISH033"
elseif length == 11 then records = "BITFIELD_RO005HEXPIRETIME013PEXPIRETIME013INCRBYFLOAT009SINTERSTORE031SUNIONSTORE031SRANDMEMBER002ZRANDMEMBER002ZRANGEBYLEX002VRANDMEMBER042ZINTERSTORE050ZUNIONSTORE050ZRANGESTORE016"
elseif length == 5 then records = "BITOP006GETEX009HKEYS002HSCAN002HVALS002SSCAN002ZSCAN002HMGET020HMSET012PFADD012HPTTL013ZRANK013SCARD018ZCARD018SDIFF030SETNX001TOUCH011VCARD041VINFO041XREAD048ZDIFF038BLPOP007BRPOP007LMOVE007LMPOP007LTRIM007SMOVE007XTRIM007ZMPOP007"
elseif length == 4 then records = "COPY008DECR009VREM009DUMP002LPOS002ECHO010PING010TIME010HLEN018LLEN018TYPE018XLEN018HTTL013PTTL013LSET022SORT039VADD040VDIM041VEMB041VSIM042XACK012LPOP007RPOP007HDEL007LREM007SPOP007SREM007XDEL007ZREM007SCAN034"
elseif length == 10 then records = "EXPIRETIME013SMISMEMBER013HPEXPIREAT012HRANDFIELD002SDIFFSTORE031SINTERCARD038ZINTERCARD038XREADGROUP049ZDIFFSTORE050BRPOPLPUSH007XAUTOCLAIM007PSUBSCRIBE032SSUBSCRIBE032"
elseif length == 7 then records = "GEODIST013GEOHASH013ZMSCORE013HEXISTS018HSTRLEN018HEXPIRE012PERSIST012PEXPIRE012LINSERT022PFCOUNT030PFMERGE031SORT_RO002ZINCRBY009DELIFEQ007HGETDEL007ZPOPMAX007ZPOPMIN007PUBLISH033"
elseif length == 9 then records = "GEORADIUS014GEOSEARCH002XREVRANGE002ZREVRANGE002HEXPIREAT012PEXPIREAT012VISMEMBER041ZLEXCOUNT013RPOPLPUSH007SUBSCRIBE032"
elseif length == 17 then records = "GEORADIUSBYMEMBER015"
elseif length == 20 then records = "GEORADIUSBYMEMBER_RO002"
elseif length == 12 then records = "GEORADIUS_RO002HINCRBYFLOAT009HPEXPIRETIME013"
elseif length == 14 then records = "GEOSEARCHSTORE016ZREVRANGEBYLEX002ZREMRANGEBYLEX007"
elseif length == 3 then records = "LCS021DEL007"
elseif length == 16 then records = "ZREVRANGEBYSCORE002ZREMRANGEBYSCORE007"
elseif length == 15 then records = "ZREMRANGEBYRANK007"
end
local at = records and find(records, command, 1, true)
while at and (at - 1) % (length + 3) ~= 0 do at = find(records, command, at + 1, true) end
if at then rule = tonumber(string.sub(records, at + length, at + length + 2)) end
if rule then
elseif command == "MEMORY" then
local subcommand = string.upper(3 < stop and argv[4] or '')
command = command .. ' ' .. subcommand
if subcommand == "USAGE"
then rule = 24
end
elseif command == "OBJECT" then
local subcommand = string.upper(3 < stop and argv[4] or '')
command = command .. ' ' .. subcommand
if subcommand == "ENCODING"
or subcommand == "FREQ"
or subcommand == "IDLETIME"
or subcommand == "REFCOUNT"
then rule = 29
end
elseif command == "XGROUP" then
local subcommand = string.upper(3 < stop and argv[4] or '')
command = command .. ' ' .. subcommand
if subcommand == "CREATE"
or subcommand == "CREATECONSUMER"
then rule = 45
elseif subcommand == "SETID"
then rule = 46
elseif subcommand == "DELCONSUMER"
or subcommand == "DESTROY"
then rule = 7
end
elseif command == "XINFO" then
local subcommand = string.upper(3 < stop and argv[4] or '')
command = command .. ' ' .. subcommand
if subcommand == "CONSUMERS"
or subcommand == "GROUPS"
or subcommand == "STREAM"
then rule = 47
end
end
return rule, command
end)(command)
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
if rule == 36 then
for at = 6, stop do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then rule = 35 break end
end
end
if rule == 4 then
local at = 5
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
if rule == 36 then
writes = true
recorded = true
lengthens = #(argv[5] or '') > 16777216
elseif rule == 13 then
reads = true
elseif rule == 12 then
writes = true
recorded = true
elseif rule == 9 then
reads = true
writes = true
recorded = true
elseif rule == 11 then
last = stop
elseif rule == 2 then
reads = true
weighs = true
elseif rule == 23 then
reads = true
weighs = not (find(argv[5] or '', '^%d?%d$') and find(argv[6] or '', '^%d?%d$'))
elseif rule == 51 then
reads = true
weighs = stop > 6 or not (find(argv[5] or '', '^%d?%d$') and find(argv[6] or '', '^%d?%d$'))
elseif rule == 43 then
writes = true
recorded = true
weighs = stop - 3 > 102
elseif rule == 25 then
last = stop
reads = true
weighs = stop - 3 > 2
elseif rule == 26 then
last = stop
step = 2
writes = true
recorded = true
for at = 5, stop, 2 do
if #argv[at] > 16777216 then lengthens = true end
end
elseif rule == 37 then
writes = true
recorded = true
lengthens = #(argv[6] or '') > 16777216
elseif rule == 18 then
else
(function(rule, argv, stop, find)
if rule == 1 then
writes = true
recorded = true
lengthens = true
elseif rule == 4 then
reads = true
writes = true
recorded = true
lengthens = true
for at = 5, stop do
local width = tonumber(string.match(argv[at], '^[iu](%d+)') or 0)
if width > 53 then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
end
end
elseif rule == 5 then
reads = true
for at = 5, stop do
local width = tonumber(string.match(argv[at], '^[iu](%d+)') or 0)
if width > 53 then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
end
end
elseif rule == 6 then
first = 5
last = stop
reads = true
writes = true
recorded = true
weighs = true
lengthens = true
elseif rule == 8 then
last = 5
reads = true
writes = true
recorded = true
for at = 6, stop do
if find(argv[at], "^[Dd][Bb]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "DB"
end
end
weighs = true
lengthens = true
elseif rule == 10 then
last = 3
elseif rule == 14 then
walked, first, last = {}, 1, 0
if 4 <= stop then walked[1] = argv[4] end
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
weighs = true
elseif rule == 15 then
walked, first, last = {}, 1, 0
if 4 <= stop then walked[1] = argv[4] end
local option_at, stored = 8
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
weighs = true
elseif rule == 16 then
last = 5
reads = true
writes = true
recorded = true
weighs = true
elseif rule == 3 then
reads = true
lengthens = true
for at = 5, stop do
local width = tonumber(string.match(argv[at], '^[iu](%d+)') or 0)
if width > 53 then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
end
end
elseif rule == 35 then
reads = true
writes = true
recorded = true
lengthens = #(argv[5] or '') > 16777216
elseif rule == 17 then
reads = true
writes = true
recorded = true
lengthens = true
elseif rule == 19 then
reads = true
writes = true
recorded = true
weighs = stop - 3 > 5
elseif rule == 20 then
reads = true
weighs = stop - 3 > 5
elseif rule == 21 then
last = 5
reads = true
weighs = true
elseif rule == 22 then
writes = true
recorded = true
weighs = true
elseif rule == 24 then
first = 5
last = 5
weighs = true
elseif rule == 27 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[4] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 5
for at = first_key, math.min(first_key + (how_many - 1) * 2, stop), 2 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
writes = true
recorded = true
lengthens = true
elseif rule == 28 then
last = stop
step = 2
writes = true
recorded = true
lengthens = true
elseif rule == 29 then
first = 5
last = 5
elseif rule == 30 then
last = stop
reads = true
weighs = true
elseif rule == 31 then
last = stop
reads = true
writes = true
recorded = true
weighs = true
elseif rule == 38 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[4] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 5
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
reads = true
weighs = true
elseif rule == 39 then
walked, first, last = {}, 1, 0
if 4 <= stop then walked[1] = argv[4] end
local option_at, stored = 5
while option_at < stop do
if find(argv[option_at], "^[Ss][Tt][Oo][Rr][Ee]%f[%z]") then
option_at = option_at + 1
stored = argv[option_at]
elseif find(argv[option_at], "^[Bb][Yy]%f[%z]") then
option_at = option_at + 1
elseif find(argv[option_at], "^[Gg][Ee][Tt]%f[%z]") then
option_at = option_at + 1
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
weighs = true
elseif rule == 40 then
reads = true
writes = true
recorded = true
weighs = true
elseif rule == 41 then
reads = true
writes = true
elseif rule == 42 then
reads = true
writes = true
weighs = true
elseif rule == 44 then
reads = true
writes = true
recorded = true
weighs = stop - 3 > 20
for at = 5, stop do
if #argv[at] > 1024 then lengthens = true end
end
elseif rule == 45 then
first = 5
last = 5
writes = true
recorded = true
for at = 6, stop do
if #argv[at] > 1024 then lengthens = true end
end
elseif rule == 46 then
first = 5
last = 5
writes = true
recorded = true
elseif rule == 47 then
first = 5
last = 5
reads = true
weighs = true
elseif rule == 48 then
walked, first, last = {}, 1, 0
local option_at = 4
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
weighs = true
elseif rule == 49 then
walked, first, last = {}, 1, 0
local option_at = 4
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
weighs = true
for at = 5, stop do
if #argv[at] > 1024 then lengthens = true end
end
elseif rule == 50 then
walked, first, last = {}, 1, 0
if 4 <= stop then walked[1] = argv[4] end
local how_many = string.match(argv[5] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = 6
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
reads = true
writes = true
recorded = true
weighs = true
elseif rule == 7 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "delete"
elseif rule == 32 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "subscribe"
elseif rule == 33 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "publish"
elseif rule == 34 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "scan"
end
end)(rule, argv, stop, find)
end
if code then reason = reason or detail == 'class' and keys[count + 1] break end
for at = 4, stop do sent = sent + #argv[at] end
if sent > 65536 * 1 then
work = sent * (first > last and not key and 0.25 or 0.014285714285714285)
end
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
if #key > 1024 then
code, detail, value, amount = 'KEY_TOO_LONG', 'key', key, ' bytes=' .. #key .. ' limit=1024'
else
if code then
elseif true or check == 1 then
if not code then
matched = false
if find(key, "^agents:jobs:[^:]+:state$") then matched = true
elseif find(key, "^agents:jobs:[^:]+:result$") then matched = true
end
if not matched then
code, detail, value = 'KEY_NOT_GRANTED', 'key', key
end
end
end
if code then
matched = false
if find(key, "^agents:jobs:[^:]+:lock$") then matched = "agents:jobs:{job_id}:lock"
end
if matched then code, detail, value, reason = 'KEY_DENIED', 'key', key, matched end
end
end
if code then break end
end
if code then break end
if work > 0 or weighs or lengthens then
local names = {}
for at = first, last, step do
if not walked[at] then break end
names[#names + 1] = walked[at]
end
(function(base)
local function amount_of(what, much, most)
return string.format(' %s=%.0f limit=%.0f', what, math.ceil(math.min(much, 1e15)), most)
end
if lengthens or sent > 204800 then
local kinds = ",APPEND,=a2\010,BITFIELD,=f2\010,BITOP,=l3\010,COPY,=c1\010,GEOADD,HINCRBY,HINCRBYFLOAT,HMSET,HSET,HSETEX,HSETNX,LINSERT,LPUSH,LPUSHX,LSET,RPUSH,RPUSHX,SADD,VADD,VSETATTR,ZADD,ZINCRBY,=e2\010,GETSET,SET,SETNX,=v2\010,MSET,MSETNX,=p2\010,MSETEX,=p3\010,PSETEX,SETEX,=v3\010,SETBIT,=b2\010,SETRANGE,=r2\010,XADD,=x2\010,XCLAIM,XREADGROUP,=n2\010,XGROUP CREATE,XGROUP CREATECONSUMER,=n3\010"
local at, how, place = first, string.match(kinds, '=(.)(.)', find(kinds, ',' .. command .. ',', 1, true) or #kinds)
place = base + (place or 0)
local is_element = how == 'e' or how == 'x'
or how == 'n'
local function check(bytes)
local name = walked[at]
if not name or not names[1] then return end
if bytes <= 16777216 and not is_element then return end
local bound, matched = is_element and 204800 or 16777216, false
do
local key = name
end
if how == 'n' then bound = 1024 end
if bytes > bound then
key, code, detail, value, amount = name, 'VALUE_TOO_LARGE', 'key', name, amount_of('bytes', bytes, bound)
end
end
local function length_of(name)
local length = redis.pcall('STRLEN', name or '')
if type(length) == 'number' then return length end
return find(length.err, '^WRONGTYPE') and 0 or math.huge
end
local bytes = #(argv[place] or '')
if is_element then
for i = place + 1, stop do
bytes = how == 'x' and bytes + #argv[i] or math.max(bytes, #argv[i])
end
check(bytes)
elseif how == 'p' then
for i = 1, #names do
check(#(argv[place] or ''))
at, place = at + step, place + 2
end
elseif how == 'l' or how == 'c' then
bytes = 0
for i = how == 'c' and 1 or 2, how == 'c' and 1 or #names do bytes = math.max(bytes, length_of(names[i])) end
if how == 'c' then at = last end
check(bytes)
elseif how == 'a' or how == 'v' then
check(bytes + (how == 'a' and length_of(names[1]) or 0))
elseif how then
bytes = tonumber(argv[place] or '') or 0
if how == 'r' then
bytes = bytes + #(argv[place + 1] or '')
elseif how == 'b' then
bytes = math.floor(bytes / 8) + 1
else
local bits = 0
while place <= stop do
local word = string.upper(string.match(string.sub(argv[place], 1, 32), '^%Z*'))
local width = string.match(argv[place + 1] or '', '^%a(%d+)') or 0
local times, offset = string.match(argv[place + 2] or '', '^(#?)(%d+)')
if offset and word ~= 'GET' and word ~= 'OVERFLOW' then
bits = math.max(bits, offset * (times == '#' and width or 1) + width)
end
place = place + (word == 'OVERFLOW' and 2 or word == 'GET' and 3 or 4)
end
bytes = math.ceil(bits / 8)
end
if bytes > 65536 then work = work + math.max(0, bytes - length_of(names[1])) * 0.014285714285714285 end
check(bytes)
end
if code then return end
end
local left = 250000
if weighs then
local usages, sizes
local function weigh(command, argv, base, stop, names, left)
local plans = ",BITCOUNT,BITPOS,=Bs11-00 0.003 0\010,BITOP,=Bm20-00 0.012 0\010,COPY,=As11w00 5 0\010,DUMP,=As11w00 10 0\010,GEORADIUS,GEORADIUSBYMEMBER,GEORADIUSBYMEMBER_RO,GEORADIUS_RO,GEOSEARCH,=Zs11n20 10 1\010,GEOSEARCHSTORE,=Zs22n30 10 0\010,HGETALL,=Hs11-00 7 2\010,HGETEX,HMGET,=Hs11h25 0.5 1\010,HKEYS,HVALS,=Hs11-00 6 1\010,HRANDFIELD,=Hs11c20 28 1\010,HSCAN,=Hs11s310 13 2\010,LCS,=Bp12-00 0.04 0\010,LINDEX,LSET,=Ls11i20 0.05 0\010,LINSERT,LPOS,=Ls11-00 0.5 0\010,LRANGE,=Ls11r20 1.5 1\010,MEMORY USAGE,=As11o05 1.3 0\010,MGET,=Bs10k02 0.025 1\010,PFCOUNT,=-s10k02 80 0\010,PFMERGE,=-s10k00 8000 0\010,SDIFF,SUNION,=Ss10-00 3 1\010,SDIFFSTORE,SUNIONSTORE,=Ss20-00 3 0\010,SINTER,=Sl10-00 5 1\010,SINTERCARD,=Sl10-00 2 0\010,SINTERSTORE,=Sl20-00 5 0\010,SMEMBERS,=Ss11-00 3 1\010,SORT,SORT_RO,=As11t20 20 1\010,SRANDMEMBER,=Ss11c20 40 1\010,SSCAN,=Ss11s310 7 1\010,VADD,=-s11d20 0.04 0\010,VRANDMEMBER,=Vs11c20 40 1\010,VSIM,=Vs11o010 10 1\010,XADD,=-s11a0102 2500 0\010,XCLAIM,=Xs11h420 2400 0\010,XINFO CONSUMERS,=Xs11g30 50 0\010,XINFO GROUPS,=Xs11g00 60 0\010,XINFO STREAM,=Xs11f30 2.5 0\010,XPENDING,=Xs11g20 50 0\010,XRANGE,XREVRANGE,=Xs11e20 14 0\010,XREAD,XREADGROUP,=Xs10x00 14 0\010,ZDIFF,ZUNION,=As10-00 12 1\010,ZDIFFSTORE,ZUNIONSTORE,=As20-00 6 0\010,ZINTER,=Al10-00 12 1\010,ZINTERCARD,=Al10-00 10 0\010,ZINTERSTORE,=Al20-00 10 0\010,ZRANDMEMBER,=Zs11c20 34 1\010,ZRANGE,ZRANGEBYLEX,ZRANGEBYSCORE,ZREVRANGE,ZREVRANGEBYLEX,ZREVRANGEBYSCORE,=Zs11r20 8 1\010,ZRANGESTORE,=Zs22r30 8 0\010,ZSCAN,=Zs11s310 19 2\010"
local size, join, first, last, bound, place, default, weight, strung = string.match(plans, '=(.)(.)(.)(.)(.)(.)(%d+) (%S+) (%d)', find(plans, ',' .. command .. ',', 1, true))
if size ~= '-' and not names[1] then return 0, 0 end
if left < 100 then return 100, 0 end
place, default = base + place, default + 0
usages, sizes = usages or {}, sizes or {}
local min, max, huge, n, pushed = math.min, math.max, math.huge, nil, nil
local asked = 100
local function arg(at) return at <= stop and argv[at] or '' end
local function number(at)
local found = #arg(at) < 512 and tonumber(arg(at))
return found == found and found or nil
end
local function word(at)
local text = arg(at)
if #text > 12 and not find(text, '\0', 1, true) then return '' end
return string.upper(string.match(string.sub(text, 1, 32), '^%Z*'))
end
local function option(name, from)
local most, found
for at = from, stop do
if word(at) == name then
found = at + 1
most = max(most or 0, number(found) or 0)
end
end
return most, found
end
local function ask(...)
local reply = redis.pcall(...) or 0
if type(reply) == 'number' then return reply end
return (find(reply.err, '^WRONGTYPE') or find(reply.err, '^ERR min or max')) and 0 or huge
end
local function usage(name, found)
if not usages[name] then
asked = asked + found * 0.5
usages[name] = asked > left and huge or ask('MEMORY', 'USAGE', name, 'SAMPLES', max(1, math.ceil(found))) / 250
end
return usages[name]
end
local function elements()
local often = (false or #names > 3) and bound == '-' and (size == 'A' or size == 'S' and last == '0')
local sum, least, most, product, count = 0, 1e15, 0, 1, 0
for i = first + 0, last == '0' and #names or min(last, #names) do
local name = names[i]
local known = bound .. size .. name
local held = sizes[known]
if not held then
local kind, part = size, 1
if kind == 'A' then
asked = asked + 25
kind = call('TYPE', name).ok
if kind == 'string' then part = 250 end
end
asked = asked + 25
local by = string.match(" B=STRLEN L=LLEN S=SCARD Z=ZCARD H=HLEN X=XLEN V=VCARD string=STRLEN list=LLEN set=SCARD zset=ZCARD hash=HLEN stream=XLEN vectorset=VCARD none=EXISTS", ' ' .. kind .. '=(%u+)')
held = by and ask(by, name) / part or huge
if often and part == 1 and held > 0 and held * weight <= left then held = held + usage(name, held) end
sizes[known] = held
end
asked = asked + 2.5
if asked > left then return huge end
sum, least, most, product, count = sum + held, min(least, held), max(most, held), product * (held + 1), count + 1
end
if join == 'l' then pushed = least end
return join == 's' and sum or join == 'p' and product or count * (join == 'l' and least or most)
end
local function bounded(n)
if size == '-' or n * weight <= min(1000, left) and n * strung * 24.75 <= left / 8 then return n end
return min(n, elements())
end
local function words_of(entry)
local words = entry and entry[2] or {}
local work = #words * math.max(0.9, 24.75)
for at = 1, #words do work = work + #words[at] * 0.025 end
return work
end
local function entries(name, range, from, to, count)
if bound ~= 'h' and #names <= 4 and count * #names <= 100 then return count * weight end
local work, seen = 0, 0
repeat
local found = redis.pcall(range, name, from, to, 'COUNT', min(64, count))
for i = 1, #found do
seen, from, work = seen + 1, '(' .. found[i][1], work + weight + 24.75 + words_of(found[i])
end
until #found < min(64, count) or seen >= count or work + work + asked > left
asked = asked + 25 + work
return work
end
local function group_of(name, group)
local stream, held = redis.pcall('XINFO', 'STREAM', name), nil
for i = 1, #stream, 2 do
if stream[i] == 'groups' then asked = asked + 25 + stream[i + 1] * 60 end
if type(stream[i + 1]) == 'table' then asked = asked + words_of(stream[i + 1]) end
end
local groups = asked <= left and redis.pcall('XINFO', 'GROUPS', name) or {}
for i = 1, #groups do
if groups[i][2] == group then held, asked = groups[i], asked + groups[i][4] * 50 end
end
return held
end
if bound == '-' then
n = elements()
elseif bound == 'k' or bound == 'a' then
pushed = stop - base <= default and 0 or stop - base
n = pushed == 0 and 0 or size == '-' and pushed or elements()
elseif bound == 'w' then
n = elements()
if n * weight <= left then n = max(n, usage(names[1], n) * (call('TYPE', names[1]).ok == 'stream' and 5 or 1)) end
elseif bound == 'i' then
n = bounded(math.abs(number(place) or 0))
elseif bound == 'c' then
n = number(place) or 1
if n >= 0 or not find(command, 'RAND') then
n = bounded(max(0, n))
else
n, pushed = -n, -n
if n > 4 and n * weight <= left then
local held = max(1, elements())
n = n * (1 + usage(names[1], min(4000, held)) / held)
end
end
elseif bound == 'o' then
n = option('COUNT', base + 1)
pushed = bounded(n or default)
for name in string.gmatch('SAMPLES EF FILTER-EF', '%S+') do
local most = option(name, base + 1)
if most then n = max(n or 0, most == 0 and huge or most) end
end
if select(2, option('TRUTH', base + 1)) then n = huge end
local _, filter = option('FILTER', base + 1)
n = n or default
if filter and not option('FILTER-EF', base + 1) then n = n * 100 end
n = bounded(n) * (1 + #arg(filter or 0) / 64)
elseif bound == 'n' then
local most, found = option('COUNT', place)
local held = elements()
pushed = min(most or huge, held)
n = pushed + held * (word((found or 0) + 1) == 'ANY' and 0.05 or most and 0.35 or 0)
elseif bound == 'r' then
local from, to, low, high = arg(place), arg(place + 1), number(place) or 0, number(place + 1) or 0
local lex = find(command, 'LEX') or option('BYLEX', place)
if lex or find(command, 'SCORE') or option('BYSCORE', place) then
local _, found = option('LIMIT', place)
local offset, count = found and number(found) or 0, found and number(found + 1) or -1
if count < 0 then count = huge end
n = bounded(count + offset / 40)
if n * weight > min(1000, left) then
if find(command, 'REV') or option('REV', place) then from, to = to, from end
pushed = min(count, ask(lex and 'ZLEXCOUNT' or 'ZCOUNT', names[first + 0] or '', from, to))
n = pushed + min(offset, n) / 40
end
elseif low >= 0 and high < 0 then
n = max(0, elements() + high - low + 1)
else
n = bounded(max(0, low < 0 and high >= 0 and huge or high - low + 1))
end
if size == 'L' then pushed, n = n, n + math.abs(low) / 20 end
elseif bound == 's' then
local count, glob, at = default, '', place
while at <= stop do
if word(at) == 'COUNT' then count = max(default, number(at + 1) or 0) end
if word(at) == 'MATCH' then glob = arg(at + 1) end
at = at + (word(at) == 'NOVALUES' and 1 or 2)
end
local held = size ~= '-' and find(glob, '%*[^*?][^*?][^*?][^*?]') and elements()
pushed = bounded(count)
n = pushed * (1 + #glob / (find(glob, '*.') and 4 or 64))
if held and n * weight <= left then
n = n + usage(names[1], min(1000, held)) * #glob * min(1, #glob > 32 and 1 or count * 10 / held)
end
elseif bound == 'e' then
local from, to = arg(place), arg(place + 1)
if command == 'XREVRANGE' and not redis.pcall('XRANGE', names[1], to, from, 'COUNT', 1)[1] then
n = elements() / 15 + usage(names[1], 5) / 5
else
n = entries(names[1], command, from, to, option('COUNT', place + 2) or huge) / weight
end
elseif bound == 'x' then
local count, at, work, group, blocks = 0, base + 1, 0, nil, nil
while at < stop - 2 * #names do
local name = word(at)
if name == 'COUNT' then count = number(at + 1) or 0 end
if name == 'GROUP' then group, at = argv[at + 1], at + 1 end
blocks = blocks or name == 'BLOCK'
at = at + (name == 'NOACK' and 1 or 2)
end
if count <= 0 then count = huge end
for i = 1, #names do
local id, held = argv[stop - #names + i], nil
if group and (blocks or count > 100) then
held = group_of(names[i], group)
if blocks then asked = asked + asked end
end
if held and id == '>' then id = held[8] elseif held then work = work + min(count, held[6]) * weight end
if id ~= '$' then work = work + entries(names[i], 'XRANGE', '(' .. id, '+', id == '+' and 1 or count) end
if work + asked > left then break end
end
n = work / weight
elseif bound == 'g' then
local held = group_of(names[1], argv[place])
local pending = held and held[6] or 0
local count = number(place + (word(place + 1) == 'IDLE' and 5 or 3)) or 0
n = find(command, '^XGROUP') and pending or (asked + (held and stop > place and pending / 2 + min(pending, count) * weight or 0)) / weight
elseif bound == 'f' then
n = word(place) == 'FULL' and ask('MEMORY', 'USAGE', names[1]) or 0
elseif bound == 'd' then
n = (option('REDUCE', place) or 0) * (word(place + 2) == 'FP32' and #(arg(place + 3)) / 4 or number(place + 3) or 0) + (option('EF', place) or 0) * 250
elseif bound == 'h' then
n = stop - base > default and (stop - base) or 0
pushed = n
local seen, work = {}, 0
for at = place, n > 0 and stop or 0 do
local word = argv[at]
if seen[word] then
work = work + (size == 'H' and 25 + ask('HSTRLEN', names[1], word) * 0.025 or size == 'X' and entries(names[1], 'XRANGE', word, word, 1))
end
seen[word] = true
if work + asked > left then break end
end
n = n + work / weight
elseif bound == 't' then
n = elements()
pushed = n
local patterns, option, made = {}, nil, 1
local at = place
while at < stop do
local name = word(at)
if name == 'BY' or name == 'GET' then
at = at + 1
asked = asked + #argv[at] * 0.35
if asked > left then return asked, 0 end
local before, after = string.match(argv[at], '^([^*]*)%*(.*)$')
if before or name == 'GET' then
option = name
made = made + (before and 1 or 0) + (name == 'GET' and 1 or 0)
local suffix, field = string.match(after or '', '^(.-)%->(.+)$')
patterns[#patterns + 1] = { #argv[at], before, suffix or after, field }
end
if before then
local key, matched = before, false
if false then
end
if not matched or find(argv[at], '%z') then return 0, 0, 'KEY_NOT_GRANTED', argv[at] end
end
end
at = at + 1
end
pushed = pushed * made
if option and n * weight <= left then n = n + usage(names[1], n) end
if option then
if find(redis.pcall(argv[base], names[1], 'GET', '#', '').err, 'insufficient ACL', 1, true) then
return 0, 0, 'COMMAND_REFUSED', command .. ' ' .. option
end
local work = n * weight
asked = asked + work
local found = max(work + asked, pushed * 24.75) <= left and redis.pcall(argv[base], names[1], 'BY', 'nosort') or {}
for i = 1, #found do
for j = 1, #patterns do
local size, before, suffix, field = unpack(patterns[j], 1, 4)
size = size + #found[i]
work = work + (field and 30 or 10) + size * 0.025
if not (work + asked <= left) then return work, asked end
end
end
n = work / weight
end
end
pushed = (pushed or n) * strung
local copies = find(command, 'STORE$') and n * weight <= left
if (pushed > 0 or copies) and bound ~= 'k' then
local times = 1
for at = base + 2, bound == 'h' and 0 or stop do
if find(word(at), '^WITH') then times = times + 1 end
end
pushed = pushed * times
local moved = copies and n or pushed
if moved > 100 and pushed * 24.75 <= left and size ~= '-' then
local held, bytes = elements(), 0
if join ~= 's' then held = moved end
for i = first + 0, last == '0' and #names or min(last, #names) do
bytes = bytes + usage(names[i], moved / 4) * 250
end
bytes = bytes * min(1, moved / max(1, held * max(1, strung) * times))
n = max(n, bytes * 0.014285714285714285 / weight)
bytes = bytes - 144 * pushed
pushed = math.sqrt(pushed * (pushed + max(0, bytes) / 40))
end
end
if pushed > 0 then pushed = pushed + stop - base end
return max(n * weight, pushed * 24.75 - asked), asked
end
local more, asked, denial, named, why = weigh(command, argv, base, stop, names, left - work)
if denial then
code, detail, value, key, reason = denial, 'key', named, named, why
if denial == 'COMMAND_REFUSED' then detail, key = 'command', nil end
return
end
work = work + more + asked
end
if not (work <= left) then
code, detail, value, amount = 'WORK_TOO_LARGE', 'command', command, amount_of('work', work, 250000)
elseif work > 250000 / 10 and now_us % 250000 < work + work then
collectgarbage('step', 16384)
end
end)(3)
if code then break end
end
if writes then
if not (tat_1 - 5900000 <= now_us) then
code, detail, value = 'RATE_LIMITED', 'limit', "rate.writes"
at_us = tat_1 - 5900000
if not (tat_1 < 9007199254740992) then code = 'COUNTER_CORRUPT' end
end
if code then break end
end
if true then
if not (used_2 >= 0 and used_2 < 50000 and ends_2 < 9007199254740992) then
if not (used_2 >= 0 and used_2 < 9007199254740992 and ends_2 < 9007199254740992) then
code, detail, value = 'COUNTER_CORRUPT', 'limit', "budget.requests"
elseif now_us < ends_2 then
code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', "budget.requests", ends_2
end
end
if code then break end
end
if writes then
if not (used_3 >= 0 and used_3 < 20000 and ends_3 < 9007199254740992) then
if not (used_3 >= 0 and used_3 < 9007199254740992 and ends_3 < 9007199254740992) then
code, detail, value = 'COUNTER_CORRUPT', 'limit', "budget.writes"
elseif now_us < ends_3 then
code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', "budget.writes", ends_3
end
end
if code then break end
end
if writes then
if tat_1 < now_us then tat_1 = now_us end
tat_1 = tat_1 + 100000
end
if true then
if now_us >= ends_2 then
used_2 = 0
ends_2 = now_us - (now_us - 0) % 86400000000 + 86400000000
end
used_2 = used_2 + 1
end
if writes then
if now_us >= ends_3 then
used_3 = 0
ends_3 = (function(now_us)
for until_us, start_us, step_us in string.gmatch("1774738800000000:1767222000000000:86400000000 1774821600000000:1774738800000000:82800000000 1792879200000000:1774821600000000:86400000000 1792969200000000:1792879200000000:90000000000 1806188400000000:1792969200000000:86400000000 1806271200000000:1806188400000000:82800000000 1824933600000000:1806271200000000:86400000000 1825023600000000:1824933600000000:90000000000 1837638000000000:1825023600000000:86400000000 1837720800000000:1837638000000000:82800000000 1856383200000000:1837720800000000:86400000000 1856473200000000:1856383200000000:90000000000 1869087600000000:1856473200000000:86400000000 1869170400000000:1869087600000000:82800000000 1887832800000000:1869170400000000:86400000000 1887922800000000:1887832800000000:90000000000 1901142000000000:1887922800000000:86400000000 1901224800000000:1901142000000000:82800000000 1919282400000000:1901224800000000:86400000000 1919372400000000:1919282400000000:90000000000 1932591600000000:1919372400000000:86400000000 1932674400000000:1932591600000000:82800000000 1950732000000000:1932674400000000:86400000000 1950822000000000:1950732000000000:90000000000 :1950822000000000:86400000000", '(%d*):(%d+):(%d+)') do
until_us = tonumber(until_us) or math.huge
if now_us < until_us then
return math.min(now_us - (now_us - start_us) % step_us + step_us, until_us)
end
end
end)(now_us)
end
used_3 = used_3 + 1
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
tried = redis.pcall(unpack(argv, 3))
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
call('SETRANGE', "keyleash:state:agent-runner", 16, struct.pack("<dddddd", sequence, tat_1, ends_2, used_2, ends_3, used_3))
if not (now_us - used_us < 60000000) then redis.pcall('SETRANGE', token_key, 8, struct.pack('<d', now_us)) end
if recorded then
local named, touched, is_masked = command, key or '', false
if count > 1 then
local parts = {}
for i = 1, #keys do
local key, hidden = keys[i], false
parts[i], is_masked = #key .. ':' .. key .. ',', is_masked or hidden
end
named, touched = command .. ':' .. count, table.concat(parts)
end
local charged = "22dda68652c5 1"
if reads then charged = "22dda68652c5 1,1r" end
if writes then charged = reads and "22dda68652c5 1,1r,1w" or "22dda68652c5 1,1w" end
if deletes then charged = charged .. ',1d' end
if not event then
event = call('XADD', "keyleash:audit:agent-runner", '*', 'seq', sequence, 'token', token_id, 'policy', charged, 'correlation', correlation, named, touched)
end
if now_us % 7 == 0 then
call('XTRIM', "keyleash:audit:agent-runner", 'MAXLEN', '~', "100000")
end
end
end
local reply = tried
if reply then
elseif stop == 5 then
reply = redis.pcall(argv[3], argv[4], argv[5])
else
reply = redis.pcall(unpack(argv, 3))
end
if type(reply) == 'table' then
if reply.err or restore then
reply = (function()
if reply.err then
if find(reply.err, '^ERR Wrong number of args') then
reply = redis.error_reply("ERR wrong number of arguments for '" .. string.lower((string.gsub(command, ' ', '|'))) .. "' command")
elseif find(reply.err, '^ERR Unknown [%a ]*command called from') then
reply = redis.error_reply("ERR unknown command '" .. command .. "'")
elseif find(reply.err, '^ERR ACL failure in script: ') then
reply = redis.error_reply('NOPERM ' .. string.sub(reply.err, 28))
end
local text = string.sub(reply.err, 1, 200)
if event then
call('XADD', "keyleash:audit:agent-runner", '*', 'of', event, 'error', text)
end
end
return reply
end)()
end
elseif type(reply) == 'number' and (reply >= 9007199254740992 or reply <= -9007199254740992) then
if command == 'HINCRBY' then
reply = call('HGET', argv[4], argv[5])
elseif find(command, '^INCR') or find(command, '^DECR') then
reply = call('GET', argv[4])
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
if amount then line = line .. amount end
if code == 'RATE_LIMITED' then
line = line .. ' retry_after_ms=' .. string.format('%.0f', math.ceil((at_us - now_us) / 1000))
elseif code == 'SUSPENDED' and at_us > 1 then
line = line .. ' until_ms=' .. string.format('%.0f', math.ceil(at_us / 1000))
elseif code == 'BUDGET_EXHAUSTED' then
line = line .. ' resets_at_ms=' .. string.format('%.0f', math.ceil(at_us / 1000))
end
if code ~= 'POLICY_STALE' and code ~= 'NOT_ACTIVE' then
if detail == 'class' then key, reason = key or reason, value elseif detail == 'limit' or code == 'SUSPENDED' then reason = value end
if not now_us then
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
end
local op = command
if #op > 64 then op = string.sub(op, 1, 64) end
local minute = struct.pack('<I4', (now_us - now_us % 60000000) / 60000000)
local told_apart = (detail == 'key' or detail == 'class' or code == 'WORK_TOO_LARGE' or code == 'COMMAND_REFUSED' and find(op, ':', 1, true)) and op or ''
if detail == 'key' or detail == 'class' and key then told_apart = told_apart .. string.sub(redis.sha1hex(string.match(string.sub(detail == 'key' and value or key, 1, 64), '^[^:]*')), 1, 8) end
local kind = minute .. (token_id or '-') .. ':' .. code .. ':' .. told_apart .. ':' .. (reason or '')
if redis.pcall('HINCRBY', "keyleash:repeats:agent-runner", kind, '1') == 1 then
(function(code, reason, op, key, token_id, correlation, minute, kind)
local counted = redis.pcall('HMGET', "keyleash:repeats:agent-runner", 'seq', minute, minute .. token_id)
local seq, entries, of_token = tonumber(counted[1]) or 0, tonumber(counted[2]), tonumber(counted[3]) or 0
if counted[1] and not entries then
local counts, repeats, more = {}, {}, 0
local fields = redis.pcall('HLEN', "keyleash:repeats:agent-runner") <= 512 and redis.pcall('HGETALL', "keyleash:repeats:agent-runner") or {}
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
if repeats[1] then redis.pcall('XADD', "keyleash:denied:agent-runner", '*', unpack(repeats)) end
redis.pcall('DEL', "keyleash:repeats:agent-runner")
redis.pcall('HSET', "keyleash:repeats:agent-runner", 'seq', seq, 'folded', (tonumber(counts.folded) or 0) + more, kind, 1)
end
entries = entries or 0
local wider, folded = kind, {}
if entries >= 128 or of_token >= 24 then
wider, folded = minute .. '*:' .. code, { 'folded', 'tokens' }
elseif of_token >= 8 then
wider, folded = minute .. token_id .. ':' .. code .. '::' .. reason, { 'folded', 'commands' }
end
if wider ~= kind then
redis.pcall('HDEL', "keyleash:repeats:agent-runner", kind)
if redis.pcall('HINCRBY', "keyleash:repeats:agent-runner", wider, '1') ~= 1 then return end
end
local of = string.sub(key or '', 1, 1024)
local id = redis.pcall('XADD', "keyleash:denied:agent-runner", 'MAXLEN', '~', "10000", '*', 'seq', seq + 1, 'token', token_id, 'code', code, 'reason', reason, 'op', op, 'key', string.sub(of, 1, 256), 'correlation', correlation, 'policy', "22dda68652c5", unpack(folded))
if type(id) == 'string' then
redis.pcall('HSET', "keyleash:repeats:agent-runner", 'seq', seq + 1, minute, entries + 1, minute .. token_id, of_token + 1, 'id:' .. wider, id)
end
end)(code, reason or '', op, key, token_id or '-', correlation, minute, kind)
end
local counts = token_id and string.sub(code, 1, 6) ~= 'TOKEN_' and code ~= 'SUSPENDED'
if counts then
local total, oldest = redis.pcall('RPUSH', "keyleash:refused:agent-runner", struct.pack('<d', now_us))
if type(total) == 'number' and total > 1000 then oldest, total = '', 0 end
while type(total) == 'number' and total >= 50 do
oldest, total = redis.pcall('LPOP', "keyleash:refused:agent-runner"), total - 1
end
if type(oldest) == 'string' and not (#oldest == 8 and now_us - struct.unpack('<d', oldest) >= 60000000) then
(function(now_us, token_id, op, correlation)
local until_us = now_us + 600000000
local until_ms = string.format('%.0f', math.ceil(until_us / 1000))
redis.pcall('SETRANGE', "keyleash:state:agent-runner", 8, struct.pack('<d', until_us))
redis.pcall('DEL', "keyleash:refused:agent-runner")
redis.pcall('HSET', "keyleash:suspension:agent-runner", 'reason', "on_denials: 50/minute", 'by', 'itself', 'since_ms', string.format('%.0f', now_us / 1000), 'until_ms', until_ms)
local seq = redis.pcall('HINCRBY', "keyleash:repeats:agent-runner", 'seq', 1)
redis.pcall('XADD', "keyleash:denied:agent-runner", '*', 'seq', seq, 'token', token_id, 'code', 'SUSPENDED', 'reason', "on_denials: 50/minute", 'op', op, 'key', '', 'correlation', correlation, 'policy', "22dda68652c5", 'until_ms', until_ms)
end)(now_us, token_id, op, correlation)
end
end
end
return { err = line }
