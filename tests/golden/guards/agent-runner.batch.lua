local call, find, type, unpack, tonumber = redis.call, string.find, type, unpack, tonumber
local keys, argv = KEYS, ARGV
local token, correlation, protocol, mode = argv[1] or '', argv[2] or '', argv[3], argv[4]
local code, detail, value, reason, at_us, token_id, key, now_us, item
local command = 'BATCH'
local suspends
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
if stamp ~= 220873284788987 then code = 'POLICY_STALE' break end
if not (sequence < 9007199254740992 and sequence % 1 == 0) then sequence = 0 end
if #token <= 160 then
token_key = "keyleash:token:agent-runner:" .. redis.sha1hex(token)
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
redis.pcall('SETRANGE', "keyleash:state:agent-runner", 8, struct.pack('<d', 0))
else
code, at_us = 'SUSPENDED', suspended
local said = suspended > 0 and redis.pcall('HGET', "keyleash:suspension:agent-runner", 'reason')
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
end
end
until true
if code then break end
if mode ~= 'each' and mode ~= 'all' then
code, detail, value = 'COMMAND_REFUSED', 'mode', mode or ''
break
end
local entry, event = { 'XADD', "keyleash:audit:agent-runner", '*', 'seq', sequence + 1, 'token', token_id, 'cost', '', 'correlation', correlation, 'policy', "8b99e023515e" }
local header, passed, passed_reads, passed_writes, passed_deletes = #entry, 0, 0, 0, 0
local fields = header
local replies, typeds, mends, names, unheard = {}, {}, {}, {}, {}
local count, passed_over, n, stop = 0, 0, 0, 4
while argv[stop + 1] do
n = n + 1
command, key = 'BATCH', nil
local size_at, name_at = stop + 1, stop + 2
local size = tonumber(argv[size_at]) or 0
stop = size_at + size
if size < 1 or not argv[stop] then
code, detail, value, item = 'COMMAND_REFUSED', 'size', argv[size_at], n
break
end
if n > 1000 then code, detail, value = 'ARGS_TOO_MANY', 'commands', n .. '' break end
if stop - 4 - n > 7000 then
code, detail, value = 'ARGS_TOO_MANY', 'arguments', stop - 4 - n .. ''
break
end
argv[size_at] = stop
command = argv[name_at]
repeat
local rule, check, typed, mend
local walked, first, last, step = argv, name_at + 1, name_at + 1, 1
local reads, writes, deletes, recorded
repeat
local length = #command
if length == 3 then
if command == "SET"
then rule = 26
elseif command == "GET"
or command == "TTL"
then rule = 2
end
elseif length == 4 then
if command == "HSET"
or command == "SADD"
or command == "XADD"
then rule = 1
elseif command == "HGET"
then rule = 2
elseif command == "INCR"
then rule = 8
elseif command == "ZADD"
then rule = 37
elseif command == "MGET"
then rule = 19
elseif command == "MSET"
then rule = 20
end
elseif length == 6 then
if command == "EXPIRE"
then rule = 1
elseif command == "EXISTS"
then rule = 10
elseif command == "LRANGE"
or command == "XRANGE"
then rule = 2
elseif command == "ZRANGE"
then rule = 11
elseif command == "INCRBY"
then rule = 8
end
elseif length == 7 then
if command == "HGETALL"
then rule = 11
elseif command == "HINCRBY"
then rule = 8
end
elseif length == 5 then
if command == "LPUSH"
or command == "RPUSH"
or command == "SETEX"
then rule = 1
end
elseif length == 8 then
if command == "SMEMBERS"
then rule = 11
end
elseif length == 13 then
if command == "ZRANGEBYSCORE"
then rule = 11
end
elseif length == 9 then
if command == "SISMEMBER"
then rule = 16
end
end
if not rule then
rule, command = (function(command)
local length, rule, records = #command
if length == 6 then records = "APPEND001GEOADD001HSETEX001HSETNX001LPUSHX001PSETEX001RPUSHX001XSETID001BITPOS002GETBIT002LINDEX002SUBSTR002ZCOUNT002DECRBY008GETSET008HGETEX008SETBIT008XCLAIM008GEOPOS012MSETEX021MSETNX020SINTER025SUNION025STRLEN016VLINKS031ZINTER038ZUNION038ZSCORE011UNLINK006BLMOVE006BLMPOP006BZMPOP006GETDEL006RENAME006"
elseif length == 8 then records = "BITCOUNT002GETRANGE002XPENDING002BITFIELD004EXPIREAT001HPERSIST001HPEXPIRE001SETRANGE001VGETATTR031VSETATTR030ZREVRANK011BZPOPMAX006BZPOPMIN006RENAMENX006SPUBLISH023"
elseif length == 11 then records = "BITFIELD_RO003HEXPIRETIME002PEXPIRETIME002ZRANGEBYLEX002INCRBYFLOAT008SINTERSTORE022SUNIONSTORE022SRANDMEMBER011ZRANDMEMBER011VRANDMEMBER031ZINTERSTORE039ZUNIONSTORE039ZRANGESTORE015"
elseif length == 5 then records = "BITOP005GETEX008HKEYS002HMGET002HPTTL002HVALS002HMSET001PFADD001SETNX001HSCAN011SSCAN011ZRANK011ZSCAN011SCARD016ZCARD016SDIFF025TOUCH010VCARD031VINFO031XREAD035ZDIFF038BLPOP006BRPOP006LMOVE006LMPOP006LTRIM006SMOVE006XTRIM006ZMPOP006"
elseif length == 4 then records = "COPY007DECR008DUMP002HTTL002LPOS002PTTL002ECHO009PING009TIME009HLEN016LLEN016TYPE016XLEN016LSET001XACK001SORT028VADD030VREM030VDIM031VEMB031VSIM031LPOP006RPOP006HDEL006LREM006SPOP006SREM006XDEL006ZREM006SCAN024"
elseif length == 10 then records = "EXPIRETIME002SMISMEMBER002HPEXPIREAT001HRANDFIELD011SDIFFSTORE022SINTERCARD027XREADGROUP036ZDIFFSTORE039ZINTERCARD038BRPOPLPUSH006XAUTOCLAIM006"
elseif length == 7 then records = "GEODIST011GEOHASH002HEXISTS016HSTRLEN016HEXPIRE001LINSERT001PERSIST001PEXPIRE001PFCOUNT019PFMERGE022SORT_RO029ZINCRBY030ZMSCORE012DELIFEQ006HGETDEL006ZPOPMAX006ZPOPMIN006PUBLISH023"
elseif length == 9 then records = "GEORADIUS013GEOSEARCH011ZREVRANGE011HEXPIREAT001PEXPIREAT001VISMEMBER031XREVRANGE002ZLEXCOUNT002RPOPLPUSH006"
elseif length == 17 then records = "GEORADIUSBYMEMBER014"
elseif length == 20 then records = "GEORADIUSBYMEMBER_RO011"
elseif length == 12 then records = "GEORADIUS_RO011HINCRBYFLOAT008HPEXPIRETIME002"
elseif length == 14 then records = "GEOSEARCHSTORE015ZREVRANGEBYLEX002ZREMRANGEBYLEX006"
elseif length == 3 then records = "LCS017DEL006"
elseif length == 16 then records = "ZREVRANGEBYSCORE011ZREMRANGEBYSCORE006"
elseif length == 15 then records = "ZREMRANGEBYRANK006"
end
local at = records and find(records, command, 1, true)
while at and (at - 1) % (length + 3) ~= 0 do at = find(records, command, at + 1, true) end
if at then rule = tonumber(string.sub(records, at + length, at + length + 2)) end
if rule then
elseif command == "MEMORY" then
local subcommand = string.upper(name_at < stop and argv[name_at + 1] or '')
command = command .. ' ' .. subcommand
if subcommand == "USAGE"
then rule = 18
end
elseif command == "OBJECT" then
local subcommand = string.upper(name_at < stop and argv[name_at + 1] or '')
command = command .. ' ' .. subcommand
if subcommand == "ENCODING"
or subcommand == "FREQ"
or subcommand == "IDLETIME"
or subcommand == "REFCOUNT"
then rule = 18
end
elseif command == "XGROUP" then
local subcommand = string.upper(name_at < stop and argv[name_at + 1] or '')
command = command .. ' ' .. subcommand
if subcommand == "CREATE"
or subcommand == "CREATECONSUMER"
or subcommand == "SETID"
then rule = 32
elseif subcommand == "DELCONSUMER"
or subcommand == "DESTROY"
then rule = 6
end
elseif command == "XINFO" then
local subcommand = string.upper(name_at < stop and argv[name_at + 1] or '')
command = command .. ' ' .. subcommand
if subcommand == "CONSUMERS"
then rule = 33
elseif subcommand == "GROUPS"
or subcommand == "STREAM"
then rule = 34
end
end
return rule, command
end)(command)
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
if rule == 26 then
for at = name_at + 3, stop do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then rule = 8 break end
end
end
if rule == 4 then
local at = name_at + 2
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
if rule == 26 then
writes = true
recorded = true
elseif rule == 2 then
reads = true
elseif rule == 1 then
writes = true
recorded = true
elseif rule == 8 then
reads = true
writes = true
recorded = true
elseif rule == 10 then
last = stop
elseif rule == 11 then
reads = true
typed = protocol == '3'
elseif rule == 37 then
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 19 then
last = stop
reads = true
elseif rule == 20 then
last = stop
step = 2
writes = true
recorded = true
elseif rule == 16 then
else
(function(rule, argv, stop, find)
if rule == 4 then
reads = true
writes = true
recorded = true
for at = name_at + 2, stop do
local width = tonumber(string.match(argv[at], '^[iu](%d+)') or 0)
if width > 53 then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
end
end
elseif rule == 3 then
reads = true
for at = name_at + 2, stop do
local width = tonumber(string.match(argv[at], '^[iu](%d+)') or 0)
if width > 53 then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
end
end
elseif rule == 5 then
first = name_at + 2
last = stop
reads = true
writes = true
recorded = true
elseif rule == 7 then
last = name_at + 2
reads = true
writes = true
recorded = true
for at = name_at + 3, stop do
if find(argv[at], "^[Dd][Bb]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "DB"
end
end
elseif rule == 9 then
last = name_at + 0
typed = protocol == '3'
elseif rule == 12 then
reads = true
typed = protocol == '3'
mend = stop - name_at - 1
elseif rule == 13 then
walked, first, last = {}, 1, 0
if name_at + 1 <= stop then walked[1] = argv[name_at + 1] end
local option_at, stored = name_at + 6
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
elseif rule == 14 then
walked, first, last = {}, 1, 0
if name_at + 1 <= stop then walked[1] = argv[name_at + 1] end
local option_at, stored = name_at + 5
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
elseif rule == 15 then
last = name_at + 2
reads = true
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 17 then
last = name_at + 2
reads = true
typed = protocol == '3'
elseif rule == 18 then
first = name_at + 2
last = name_at + 2
typed = protocol == '3'
elseif rule == 21 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[name_at + 1] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = name_at + 2
for at = first_key, math.min(first_key + (how_many - 1) * 2, stop), 2 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
writes = true
recorded = true
elseif rule == 22 then
last = stop
reads = true
writes = true
recorded = true
elseif rule == 25 then
last = stop
reads = true
typed = protocol == '3'
elseif rule == 27 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[name_at + 1] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = name_at + 2
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
reads = true
elseif rule == 28 then
walked, first, last = {}, 1, 0
if name_at + 1 <= stop then walked[1] = argv[name_at + 1] end
local option_at, stored = name_at + 2
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
for at = name_at + 2, stop do
if find(argv[at], "^[Bb][Yy]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "BY"
end
end
for at = name_at + 2, stop do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "GET"
end
end
typed = protocol == '3'
elseif rule == 29 then
reads = true
for at = name_at + 2, stop do
if find(argv[at], "^[Bb][Yy]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "BY"
end
end
for at = name_at + 2, stop do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then
code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. "GET"
end
end
typed = protocol == '3'
elseif rule == 30 then
reads = true
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 31 then
reads = true
writes = true
typed = protocol == '3'
elseif rule == 32 then
first = name_at + 2
last = name_at + 2
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 33 then
first = name_at + 2
last = name_at + 2
reads = true
typed = protocol == '3'
elseif rule == 34 then
first = name_at + 2
last = name_at + 2
reads = true
typed = protocol == '3'
mend = "info"
elseif rule == 35 then
walked, first, last = {}, 1, 0
local option_at = name_at + 1
while option_at <= stop do
if find(argv[option_at], "^[Ss][Tt][Rr][Ee][Aa][Mm][Ss]%f[%z]") then
for at = option_at + 1, option_at + math.floor((stop - option_at) / 2) do
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
reads = true
typed = protocol == '3'
elseif rule == 36 then
walked, first, last = {}, 1, 0
local option_at = name_at + 1
while option_at <= stop do
if find(argv[option_at], "^[Ss][Tt][Rr][Ee][Aa][Mm][Ss]%f[%z]") then
for at = option_at + 1, option_at + math.floor((stop - option_at) / 2) do
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
reads = true
recorded = true
typed = protocol == '3'
mend = "entries"
elseif rule == 38 then
walked, first, last = {}, 1, 0
local how_many = string.match(argv[name_at + 1] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = name_at + 2
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
reads = true
typed = protocol == '3'
elseif rule == 39 then
walked, first, last = {}, 1, 0
if name_at + 1 <= stop then walked[1] = argv[name_at + 1] end
local how_many = string.match(argv[name_at + 2] or '', '^%s*%+?(%d+)')
if how_many then
local first_key = name_at + 3
for at = first_key, math.min(first_key + (how_many - 1) * 1, stop), 1 do
walked[#walked + 1] = argv[at]
end
end
last = #walked
reads = true
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 6 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "delete"
elseif rule == 23 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "publish"
elseif rule == 24 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "scan"
end
end)(rule, argv, stop, find)
end
if code then break end
if walked == argv and last > stop then last = stop end
if first == last and keys[count + 1] == walked[first] then
if walked[first] then count = count + 1 end
else
local compared = count
for at = first, last, step do
local name = walked[at]
if not name then break end
count = count + 1
while keys[count] and keys[count] ~= name and passed_over < 7000 do
count, passed_over = count + 1, passed_over + 1
end
if keys[count] ~= name then code = 'KEYS_MISMATCH' end
end
if code then count = compared end
end
if code then break end
for at = first, last, step do
local name = walked[at]
if not name then break end
key = name
local matched = false
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
if code then break end
end
if code then break end
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
if typed then typeds[n] = true end
if mend then mends[n] = mend end
if command ~= argv[name_at] then names[n] = command end
passed = passed + 1
if reads then passed_reads = passed_reads + 1 end
if writes then passed_writes = passed_writes + 1 end
if deletes then passed_deletes = passed_deletes + 1 end
if recorded then
local name, touched, is_masked = command, key or '', false
if first < last then
local parts = {}
for at = first, last, step do
local key, hidden = walked[at], false
if key then
parts[#parts + 1], is_masked = #key .. ':' .. key .. ',', is_masked or hidden
end
end
if parts[2] then name, touched = command .. ':' .. #parts, table.concat(parts) end
end
entry[fields + 1], entry[fields + 2] = name, touched
fields = fields + 2
else
unheard[n] = true
end
until true
if code then
if mode == 'all' then item = n break end
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
if item then line = line .. ' item=' .. item end
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
local of = key or ''
local id = redis.pcall('XADD', "keyleash:denied:agent-runner", 'MAXLEN', '~', "10000", '*', 'seq', seq + 1, 'token', token_id, 'code', code, 'reason', reason, 'op', op, 'key', string.sub(of, 1, 256), 'correlation', correlation, 'policy', "8b99e023515e", unpack(folded))
if type(id) == 'string' then
redis.pcall('HSET', "keyleash:repeats:agent-runner", 'seq', seq + 1, minute, entries + 1, minute .. token_id, of_token + 1, 'id:' .. wider, id)
end
end)(code, reason or '', op, key, token_id or '-', correlation, minute, kind)
end
local counts = token_id and code ~= 'TOKEN_EXPIRED' and code ~= 'TOKEN_REVOKED'
counts = counts and not suspends
if counts then
local kept, oldest = redis.pcall('RPUSH', "keyleash:refused:agent-runner", struct.pack('<d', now_us))
if type(kept) == 'number' and kept > 1000 then oldest, kept = '', 0 end
while type(kept) == 'number' and kept >= 50 do
oldest, kept = redis.pcall('LPOP', "keyleash:refused:agent-runner"), kept - 1
end
if type(oldest) == 'string' and not (#oldest == 8 and now_us - struct.unpack('<d', oldest) >= 60000000) then
(function(now_us, token_id, op, correlation)
local until_us = now_us + 600000000
local until_ms = string.format('%.0f', math.ceil(until_us / 1000))
redis.pcall('SETRANGE', "keyleash:state:agent-runner", 8, struct.pack('<d', until_us))
redis.pcall('DEL', "keyleash:refused:agent-runner")
redis.pcall('HSET', "keyleash:suspension:agent-runner", 'reason', "on_denials: 50/minute", 'by', 'itself', 'since_ms', string.format('%.0f', now_us / 1000), 'until_ms', until_ms)
local seq = redis.pcall('HINCRBY', "keyleash:repeats:agent-runner", 'seq', 1)
redis.pcall('XADD', "keyleash:denied:agent-runner", '*', 'seq', seq, 'token', token_id, 'code', 'SUSPENDED', 'reason', "on_denials: 50/minute", 'op', op, 'key', '', 'correlation', correlation, 'policy', "8b99e023515e", 'until_ms', until_ms)
end)(now_us, token_id, op, correlation)
suspends = true
end
end
end
replies[n], unheard[n] = { err = line }, true
code, detail, value, reason = nil, nil, nil, nil
end
end
if mode == 'all' and not code and keys[count + 1] then code, command, key = 'KEYS_MISMATCH', 'BATCH', nil end
if code then break end
local recorded = fields > header
if recorded then sequence = sequence + 1 end
call('SETRANGE', "keyleash:state:agent-runner", 16, struct.pack("<dddddd", sequence, tat_1, ends_2, used_2, ends_3, used_3))
if passed > 0 then
if not (now_us - used_us < 60000000) then redis.pcall('SETRANGE', token_key, 8, struct.pack('<d', now_us)) end
end
if recorded then
local cost = passed .. ''
if passed_reads > 0 then cost = cost .. ',' .. passed_reads .. 'r' end
if passed_writes > 0 then cost = cost .. ',' .. passed_writes .. 'w' end
if passed_deletes > 0 then cost = cost .. ',' .. passed_deletes .. 'd' end
entry[9] = cost
event = call(unpack(entry))
if now_us % 7 == 0 then
call('XTRIM', "keyleash:audit:agent-runner", 'MAXLEN', '~', "100000")
end
end
local run, was_typed = redis.pcall
stop = 4
for i = 1, n do
local name_at = stop + 2
stop = argv[stop + 1]
if not replies[i] then
local typed, mend = typeds[i], mends[i]
if typed ~= was_typed then
redis.setresp(typed and 3 or 2)
was_typed = typed
end
local reply = run(unpack(argv, name_at, stop))
if type(reply) == 'table' then
if reply.err or mend then
reply = (function()
if reply.err then
local command = names[i] or argv[name_at]
if find(reply.err, '^ERR Wrong number of args') then
reply = redis.error_reply("ERR wrong number of arguments for '" .. string.lower((string.gsub(command, ' ', '|'))) .. "' command")
elseif find(reply.err, '^ERR Unknown [%a ]*command called from') then
reply = redis.error_reply("ERR unknown command '" .. command .. "'")
elseif find(reply.err, '^ERR ACL failure in script: ') then
reply = redis.error_reply('NOPERM ' .. string.sub(reply.err, 28))
end
local said = string.sub(reply.err, 1, 200)
if not unheard[i] then
local item = 0
for j = 1, i do
if not unheard[j] then item = item + 1 end
end
call('XADD', "keyleash:audit:agent-runner", '*', 'of', event, 'item', item, 'error', said)
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
local command = names[i] or argv[name_at]
if command == 'HINCRBY' then
reply = call('HGET', argv[name_at + 1], argv[name_at + 2])
elseif find(command, '^INCR') or find(command, '^DECR') then
reply = call('GET', argv[name_at + 1])
end
end
if reply == nil then reply = find end
replies[i] = reply
end
end
if next(typeds) then
redis.setresp(3)
local function with_nulls(reply)
if not reply then return find end
if type(reply) == 'table' then
for i = 1, #reply do reply[i] = with_nulls(reply[i]) end
end
return reply
end
for i = 1, n do
if not typeds[i] then replies[i] = with_nulls(replies[i]) end
end
end
return replies
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
if item then line = line .. ' item=' .. item end
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
local of = key or ''
local id = redis.pcall('XADD', "keyleash:denied:agent-runner", 'MAXLEN', '~', "10000", '*', 'seq', seq + 1, 'token', token_id, 'code', code, 'reason', reason, 'op', op, 'key', string.sub(of, 1, 256), 'correlation', correlation, 'policy', "8b99e023515e", unpack(folded))
if type(id) == 'string' then
redis.pcall('HSET', "keyleash:repeats:agent-runner", 'seq', seq + 1, minute, entries + 1, minute .. token_id, of_token + 1, 'id:' .. wider, id)
end
end)(code, reason or '', op, key, token_id or '-', correlation, minute, kind)
end
local counts = token_id and code ~= 'TOKEN_EXPIRED' and code ~= 'TOKEN_REVOKED'
counts = counts and not suspends
if counts then
local kept, oldest = redis.pcall('RPUSH', "keyleash:refused:agent-runner", struct.pack('<d', now_us))
if type(kept) == 'number' and kept > 1000 then oldest, kept = '', 0 end
while type(kept) == 'number' and kept >= 50 do
oldest, kept = redis.pcall('LPOP', "keyleash:refused:agent-runner"), kept - 1
end
if type(oldest) == 'string' and not (#oldest == 8 and now_us - struct.unpack('<d', oldest) >= 60000000) then
(function(now_us, token_id, op, correlation)
local until_us = now_us + 600000000
local until_ms = string.format('%.0f', math.ceil(until_us / 1000))
redis.pcall('SETRANGE', "keyleash:state:agent-runner", 8, struct.pack('<d', until_us))
redis.pcall('DEL', "keyleash:refused:agent-runner")
redis.pcall('HSET', "keyleash:suspension:agent-runner", 'reason', "on_denials: 50/minute", 'by', 'itself', 'since_ms', string.format('%.0f', now_us / 1000), 'until_ms', until_ms)
local seq = redis.pcall('HINCRBY', "keyleash:repeats:agent-runner", 'seq', 1)
redis.pcall('XADD', "keyleash:denied:agent-runner", '*', 'seq', seq, 'token', token_id, 'code', 'SUSPENDED', 'reason', "on_denials: 50/minute", 'op', op, 'key', '', 'correlation', correlation, 'policy', "8b99e023515e", 'until_ms', until_ms)
end)(now_us, token_id, op, correlation)
suspends = true
end
end
end
return { err = line }
