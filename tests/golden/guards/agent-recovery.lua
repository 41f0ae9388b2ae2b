local call, find = redis.call, string.find
local keys, argv = KEYS, ARGV
local token, correlation, protocol, command = argv[1] or '', argv[2] or '', argv[3], argv[4] or ''
local stop = #argv
local code, detail, value, amount, reason, at_us, token_id, key, now_us
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
local token_key, record, used_us, sequence
local head_1, ends_2, used_2
repeat
local state = call('GETRANGE', "keyleash:state:agent-recovery", 0, 47)
if state == '' then code = 'NOT_ACTIVE' break end
if #state < 48 then code = 'POLICY_STALE' break end
local stamp, suspended
stamp, suspended, sequence, head_1, ends_2, used_2 = struct.unpack("<dddddd", state)
if stamp ~= 206028485002331 then code = 'POLICY_STALE' break end
if not (sequence < 9007199254740992 and sequence % 1 == 0) then sequence = 0 end
if #token <= 160 then
token_key = "keyleash:token:agent-recovery:" .. redis.sha1hex(token)
record = call('GET', token_key)
end
if suspended ~= 0 then
local expires_us = record and #record >= 29 and struct.unpack('<d', record) or 0
local left_ms = expires_us > 0 and expires_us < 9007199254740992 and call('PTTL', token_key) or 0
if left_ms > 0 then
now_us = expires_us + 604800000000 - left_ms * 1000
else
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
end
if not (suspended < 9007199254740992) then suspended = 1 end
if suspended > 1 and suspended <= now_us then
redis.pcall('SETRANGE', "keyleash:state:agent-recovery", 8, struct.pack('<d', 0))
else
code, at_us = 'SUSPENDED', suspended
local said = suspended > 0 and redis.pcall('HGET', "keyleash:suspension:agent-recovery", 'reason')
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
if not (expires_us > now_us and expires_us < 9007199254740992) then
code = 'TOKEN_EXPIRED'
if expires_us >= 0 and expires_us < 9007199254740992 then
detail, value = 'expired_at_ms', string.format('%.0f', expires_us / 1000)
else
now_us = nil
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
local weighs, lengthens
local work = 0
local place_1
repeat
local length = #command
if length == 3 then
if command == "SET"
then rule = 16
end
elseif length == 4 then
if command == "HSET"
or command == "SADD"
then rule = 6
elseif command == "ZADD"
then rule = 20
elseif command == "XADD"
then rule = 18
elseif command == "MSET"
then rule = 10
end
elseif length == 6 then
if command == "EXPIRE"
then rule = 6
elseif command == "EXISTS"
then rule = 5
end
elseif length == 5 then
if command == "LPUSH"
or command == "RPUSH"
then rule = 6
elseif command == "SETEX"
then rule = 17
end
elseif length == 9 then
if command == "SISMEMBER"
then rule = 7
end
end
if not rule then
rule, command = (function(command)
local length, rule, records = #command
if length == 6 then records = "APPEND001PSETEX001GEOADD006HSETEX006HSETNX006LPUSHX006RPUSHX006XSETID006MSETEX011MSETNX012STRLEN007LRANGE002ZRANGE002XRANGE002INCRBY002BITPOS002BLMOVE002BLMPOP002BZMPOP002DECRBY002GEOPOS002GETBIT002GETDEL002GETSET002HGETEX002LINDEX002RENAME002SETBIT002SINTER002SUBSTR002SUNION002VLINKS002XCLAIM002ZCOUNT002ZINTER002ZSCORE002ZUNION002UNLINK003"
elseif length == 4 then records = "ECHO004PING004TIME004HLEN007LLEN007TYPE007XLEN007LSET008XACK006HGET002INCR002LPOP002RPOP002MGET002COPY002DECR002DUMP002HTTL002LPOS002PTTL002SORT002SPOP002VADD002VDIM002VEMB002VREM002VSIM002HDEL003LREM003SREM003XDEL003ZREM003SCAN015"
elseif length == 8 then records = "EXPIREAT006HPERSIST006HPEXPIRE006SETRANGE001SMEMBERS002BITCOUNT002BITFIELD002BZPOPMAX002BZPOPMIN002GETRANGE002RENAMENX002VGETATTR002VSETATTR002XPENDING002ZREVRANK002SPUBLISH014"
elseif length == 7 then records = "HEXISTS007HSTRLEN007HEXPIRE006PERSIST006PEXPIRE006LINSERT008HGETALL002HINCRBY002GEODIST002GEOHASH002HGETDEL002PFCOUNT002PFMERGE002SORT_RO002ZINCRBY002ZMSCORE002ZPOPMAX002ZPOPMIN002DELIFEQ003PUBLISH014"
elseif length == 9 then records = "HEXPIREAT006PEXPIREAT006GEORADIUS002GEOSEARCH002RPOPLPUSH002VISMEMBER002XREVRANGE002ZLEXCOUNT002ZREVRANGE002"
elseif length == 5 then records = "HMSET006PFADD006SCARD007ZCARD007SETNX001TOUCH005BITOP002BLPOP002BRPOP002GETEX002HKEYS002HMGET002HPTTL002HSCAN002HVALS002LMOVE002LMPOP002SDIFF002SMOVE002SSCAN002VCARD002VINFO002XREAD002ZDIFF002ZMPOP002ZRANK002ZSCAN002LTRIM003XTRIM003"
elseif length == 10 then records = "HPEXPIREAT006BRPOPLPUSH002EXPIRETIME002HRANDFIELD002SDIFFSTORE002SINTERCARD002SMISMEMBER002XAUTOCLAIM002XREADGROUP002ZDIFFSTORE002ZINTERCARD002"
elseif length == 3 then records = "GET002TTL002LCS002DEL003"
elseif length == 13 then records = "ZRANGEBYSCORE002"
elseif length == 11 then records = "BITFIELD_RO002HEXPIRETIME002INCRBYFLOAT002PEXPIRETIME002SINTERSTORE002SRANDMEMBER002SUNIONSTORE002VRANDMEMBER002ZINTERSTORE002ZRANDMEMBER002ZRANGEBYLEX002ZRANGESTORE002ZUNIONSTORE002"
elseif length == 17 then records = "GEORADIUSBYMEMBER002"
elseif length == 20 then records = "GEORADIUSBYMEMBER_RO002"
elseif length == 12 then records = "GEORADIUS_RO002HINCRBYFLOAT002HPEXPIRETIME002"
elseif length == 14 then records = "GEOSEARCHSTORE002ZREVRANGEBYLEX002ZREMRANGEBYLEX003"
elseif length == 15 then records = "ZREMRANGEBYRANK003"
elseif length == 16 then records = "ZREMRANGEBYSCORE003ZREVRANGEBYSCORE002"
end
local at = records and find(records, command, 1, true)
while at and (at - 1) % (length + 3) ~= 0 do at = find(records, command, at + 1, true) end
if at then rule = tonumber(string.sub(records, at + length, at + length + 2)) end
if rule then
elseif command == "MEMORY" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "USAGE"
then rule = 9
end
elseif command == "OBJECT" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "ENCODING"
or subcommand == "FREQ"
or subcommand == "IDLETIME"
or subcommand == "REFCOUNT"
then rule = 13
end
elseif command == "XGROUP" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "CREATE"
or subcommand == "CREATECONSUMER"
or subcommand == "SETID"
then rule = 19
elseif subcommand == "DELCONSUMER"
or subcommand == "DESTROY"
then rule = 3
end
elseif command == "XINFO" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "CONSUMERS"
or subcommand == "GROUPS"
or subcommand == "STREAM"
then rule = 2
end
end
return rule, command
end)(command)
end
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
if rule == 16 then
for at = 7, stop do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then rule = 2 break end
end
end
if rule == 16 then
writes = true
recorded = true
lengthens = #(argv[6] or '') > 67108864
elseif rule == 6 then
writes = true
recorded = true
elseif rule == 5 then
last = stop
elseif rule == 20 then
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 18 then
writes = true
recorded = true
weighs = stop - 4 > 1002
elseif rule == 10 then
last = stop
step = 2
writes = true
recorded = true
for at = 6, stop, 2 do
if #argv[at] > 67108864 then lengthens = true end
end
elseif rule == 17 then
writes = true
recorded = true
lengthens = #(argv[7] or '') > 67108864
elseif rule == 7 then
else
(function(rule, argv, stop, find)
if rule == 1 then
writes = true
recorded = true
lengthens = true
elseif rule == 4 then
last = 4
typed = protocol == '3'
elseif rule == 8 then
writes = true
recorded = true
weighs = true
elseif rule == 9 then
first = 6
last = 6
weighs = true
typed = protocol == '3'
elseif rule == 11 then
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
lengthens = true
elseif rule == 12 then
last = stop
step = 2
writes = true
recorded = true
lengthens = true
elseif rule == 13 then
first = 6
last = 6
typed = protocol == '3'
elseif rule == 19 then
first = 6
last = 6
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 2 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "read"
elseif rule == 3 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "delete"
elseif rule == 14 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "publish"
elseif rule == 15 then
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
elseif true or check == 1 then
if not code then
matched = false
if find(key, "^agents:recovery:") then matched = true
end
if not matched then
code, detail, value = 'KEY_NOT_GRANTED', 'key', key
end
end
end
if code then break end
end
if code then break end
if weighs or lengthens then
local names = {}
for at = first, last, step do
if not walked[at] then break end
names[#names + 1] = walked[at]
end
(function(base)
local function amount_of(what, much, most)
return string.format(' %s=%.0f limit=%.0f', what, math.ceil(math.min(much, 1e15)), most)
end
if lengthens then
local kinds = ",APPEND,=a2\010,MSET,MSETNX,=p2\010,MSETEX,=p3\010,PSETEX,SETEX,=v3\010,SET,SETNX,=v2\010,SETRANGE,=r2\010"
local at, how, place = first, string.match(kinds, '=(.)(.)', find(kinds, ',' .. command .. ',', 1, true))
place = base + place
local function check(bytes)
local name = walked[at]
if not name or not names[1] then return end
if bytes <= 67108864 then return end
local bound, matched = 67108864, false
do
local key = name
end
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
if how == 'p' then
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
else
bytes = tonumber(argv[place] or '') or 0
if how == 'r' then
bytes = bytes + #(argv[place + 1] or '')
elseif how == 'b' then
bytes = math.floor(bytes / 8) + 1
else
local bits = 0
while place <= stop do
local word = string.upper(string.match(argv[place], '^%Z*'))
local width = string.match(argv[place + 1] or '', '^%a(%d+)') or 0
local times, offset = string.match(argv[place + 2] or '', '^(#?)(%d+)')
if offset and word ~= 'GET' and word ~= 'OVERFLOW' then
bits = math.max(bits, offset * (times == '#' and width or 1) + width)
end
place = place + (word == 'OVERFLOW' and 2 or word == 'GET' and 3 or 4)
end
bytes = math.ceil(bits / 8)
end
check(bytes)
if bytes > 65536 then work = bytes * 0.0025 end
end
if code then return end
end
local left = 250000
if weighs then
local usages, sizes = {}, {}
local function weigh(command, argv, base, stop, names, left)
local plans = ",LINSERT,=Ls11-00 0.5\010,LSET,=Ls11i20 0.05\010,MEMORY USAGE,=As11o05 1.3\010,XADD,=-s11a01002 250\010"
local size, join, first, last, bound, place, default, weight = string.match(plans, '=(.)(.)(.)(.)(.)(.)(%d+) (%S+)', find(plans, ',' .. command .. ',', 1, true))
if size ~= '-' and not names[1] then return 0, 0 end
if left < 100 then return 100, 0 end
place, default = base + place, default + 0
local min, max, huge, n = math.min, math.max, math.huge, nil
local asked = 100
local function arg(at) return at <= stop and argv[at] or '' end
local function number(at)
local found = tonumber(arg(at))
return found == found and found or nil
end
local function word(at) return string.upper(string.match(arg(at), '^%Z*')) end
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
return join == 's' and sum or join == 'p' and product or count * (join == 'l' and least or most)
end
local function bounded(n)
if size == '-' or n * weight <= min(1000, left) then return n end
return min(n, elements())
end
if bound == '-' then
n = elements()
elseif bound == 'k' or bound == 'a' then
n = stop - base <= default and 0 or size == '-' and stop - base or elements()
elseif bound == 'i' then
n = bounded(math.abs(number(place) or 0))
elseif bound == 'o' then
n = option('COUNT', base + 1)
for name in string.gmatch('SAMPLES EF FILTER-EF', '%S+') do
local most = option(name, base + 1)
if most then n = max(n or 0, most == 0 and huge or most) end
end
if select(2, option('TRUTH', base + 1)) then n = huge end
local _, filter = option('FILTER', base + 1)
n = n or default
if filter and not option('FILTER-EF', base + 1) then n = n * 100 end
n = bounded(n) * (1 + #arg(filter or 0) / 64)
end
return n * weight, asked
end
local more, asked = weigh(command, argv, base, stop, names, left - work)
work = work + more + asked
end
if not (work <= left) then
code, detail, value, amount = 'WORK_TOO_LARGE', 'command', command, amount_of('work', work, 250000)
end
end)(4)
if code then break end
end
if writes then
local oldest, free_us = 'none', 0
if head_1 >= 0 and head_1 < 60 and head_1 % 1 == 0 then
place_1 = 48 + head_1 * 8
oldest = call('GETRANGE', "keyleash:state:agent-recovery", place_1, place_1 + 7)
end
if #oldest == 8 then
free_us = struct.unpack('<d', oldest) + 60000000
elseif oldest ~= '' then
free_us = 9007199254740992
end
if not (free_us <= now_us) then
code, detail, value, at_us = 'RATE_LIMITED', 'limit', "rate.writes", free_us
if not (free_us < 9007199254740992) then code = 'COUNTER_CORRUPT' end
end
if code then break end
end
if true then
if not (used_2 < 5000 and ends_2 < 9007199254740992) then
if not (used_2 < 9007199254740992 and ends_2 < 9007199254740992) then
code, detail, value = 'COUNTER_CORRUPT', 'limit', "budget.requests"
elseif now_us < ends_2 then
code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', "budget.requests", ends_2
end
end
if code then break end
end
if writes then
head_1 = (head_1 + 1) % 60
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
if recorded then sequence = sequence + 1 end
call('SETRANGE', "keyleash:state:agent-recovery", 16, struct.pack("<dddd", sequence, head_1, ends_2, used_2))
if place_1 then call('SETRANGE', "keyleash:state:agent-recovery", place_1, struct.pack('<d', now_us)) end
if not (now_us - used_us < 60000000) then redis.pcall('SETRANGE', token_key, 8, struct.pack('<d', now_us)) end
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
local charged = "f090c69a5a7d 1"
if reads then charged = "f090c69a5a7d 1,1r" end
if writes then charged = reads and "f090c69a5a7d 1,1r,1w" or "f090c69a5a7d 1,1w" end
if deletes then charged = charged .. ',1d' end
if not event then
event = call('XADD', "keyleash:audit:agent-recovery", '*', 'seq', sequence, 'token', token_id, 'op', command, field, touched, 'correlation', correlation, 'policy', charged)
end
if now_us % 7 == 0 then
call('XTRIM', "keyleash:audit:agent-recovery", 'MAXLEN', '~', "100000")
end
end
if typed then redis.setresp(3) end
local reply
if reply then
elseif stop == 6 then
reply = redis.pcall(argv[4], argv[5], argv[6])
else
reply = redis.pcall(unpack(argv, 4))
end
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
call('XADD', "keyleash:audit:agent-recovery", '*', 'of', event, 'error', said)
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
if detail == 'class' or detail == 'limit' or code == 'SUSPENDED' then reason = value end
if not now_us then
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
end
local op = command
if #op > 64 then op = string.sub(op, 1, 64) end
local minute = struct.pack('<I4', (now_us - now_us % 60000000) / 60000000)
local told_apart = (detail == 'key' or detail == 'class' or code == 'WORK_TOO_LARGE') and op or ''
local kind = minute .. (token_id or '-') .. ':' .. code .. ':' .. told_apart .. ':' .. (reason or '')
if redis.pcall('HINCRBY', "keyleash:repeats:agent-recovery", kind, '1') == 1 then
(function(code, reason, op, key, token_id, correlation, minute, kind)
local counted = redis.pcall('HMGET', "keyleash:repeats:agent-recovery", 'seq', minute, minute .. token_id)
local seq, entries, of_token = tonumber(counted[1]) or 0, tonumber(counted[2]), tonumber(counted[3]) or 0
if counted[1] and not entries then
local counts, repeats, more = {}, {}, 0
local fields = redis.pcall('HLEN', "keyleash:repeats:agent-recovery") <= 512 and redis.pcall('HGETALL', "keyleash:repeats:agent-recovery") or {}
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
if repeats[1] then redis.pcall('XADD', "keyleash:denied:agent-recovery", '*', unpack(repeats)) end
redis.pcall('DEL', "keyleash:repeats:agent-recovery")
redis.pcall('HSET', "keyleash:repeats:agent-recovery", 'seq', seq, 'folded', (tonumber(counts.folded) or 0) + more, kind, 1)
end
entries = entries or 0
local wider, folded = kind, {}
if entries >= 128 or of_token >= 24 then
wider, folded = minute .. '*:' .. code, { 'folded', 'tokens' }
elseif of_token >= 8 then
wider, folded = minute .. token_id .. ':' .. code .. '::' .. reason, { 'folded', 'commands' }
end
if wider ~= kind then
redis.pcall('HDEL', "keyleash:repeats:agent-recovery", kind)
if redis.pcall('HINCRBY', "keyleash:repeats:agent-recovery", wider, '1') ~= 1 then return end
end
local of = key or ''
local id = redis.pcall('XADD', "keyleash:denied:agent-recovery", 'MAXLEN', '~', "10000", '*', 'seq', seq + 1, 'token', token_id, 'code', code, 'reason', reason, 'op', op, 'key', string.sub(of, 1, 256), 'correlation', correlation, 'policy', "f090c69a5a7d", unpack(folded))
if type(id) == 'string' then
redis.pcall('HSET', "keyleash:repeats:agent-recovery", 'seq', seq + 1, minute, entries + 1, minute .. token_id, of_token + 1, 'id:' .. wider, id)
end
end)(code, reason or '', op, key, token_id or '-', correlation, minute, kind)
end
local counts = token_id and code ~= 'TOKEN_EXPIRED' and code ~= 'TOKEN_REVOKED'
if counts then
local kept, oldest = redis.pcall('RPUSH', "keyleash:refused:agent-recovery", struct.pack('<d', now_us))
if type(kept) == 'number' and kept > 1000 then oldest, kept = '', 0 end
while type(kept) == 'number' and kept >= 50 do
oldest, kept = redis.pcall('LPOP', "keyleash:refused:agent-recovery"), kept - 1
end
if type(oldest) == 'string' and not (#oldest == 8 and now_us - struct.unpack('<d', oldest) >= 60000000) then
(function(now_us, token_id, op, correlation)
local until_us = now_us + 600000000
local until_ms = string.format('%.0f', math.ceil(until_us / 1000))
redis.pcall('SETRANGE', "keyleash:state:agent-recovery", 8, struct.pack('<d', until_us))
redis.pcall('DEL', "keyleash:refused:agent-recovery")
redis.pcall('HSET', "keyleash:suspension:agent-recovery", 'reason', "on_denials: 50/minute", 'by', 'itself', 'since_ms', string.format('%.0f', now_us / 1000), 'until_ms', until_ms)
local seq = redis.pcall('HINCRBY', "keyleash:repeats:agent-recovery", 'seq', 1)
redis.pcall('XADD', "keyleash:denied:agent-recovery", '*', 'seq', seq, 'token', token_id, 'code', 'SUSPENDED', 'reason', "on_denials: 50/minute", 'op', op, 'key', '', 'correlation', correlation, 'policy', "f090c69a5a7d", 'until_ms', until_ms)
end)(now_us, token_id, op, correlation)
end
end
end
return { err = line }
