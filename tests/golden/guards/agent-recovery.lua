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
local state = call('GETRANGE', "keyleash:state:agent-recovery", 0, 47)
if state == '' then code = 'NOT_ACTIVE' break end
if #state < 48 then code = 'POLICY_STALE' break end
local stamp, suspended
stamp, suspended, sequence, head_1, ends_2, used_2 = struct.unpack("<dddddd", state)
if stamp ~= 123004153404119 then code = 'POLICY_STALE' break end
if suspended ~= 0 then code = 'SUSPENDED' break end
if #token <= 160 then
token_key = "keyleash:token:agent-recovery:" .. redis.sha1hex(token)
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
local place_1
repeat
local length = #command
if length == 3 then
if command == "SET"
then rule = 12
end
elseif length == 4 then
if command == "HSET"
or command == "SADD"
or command == "XADD"
then rule = 1
elseif command == "ZADD"
then rule = 14
elseif command == "MSET"
then rule = 8
end
elseif length == 6 then
if command == "EXPIRE"
then rule = 1
elseif command == "EXISTS"
then rule = 5
end
elseif length == 5 then
if command == "LPUSH"
or command == "RPUSH"
or command == "SETEX"
then rule = 1
end
elseif length == 9 then
if command == "SISMEMBER"
then rule = 6
end
end
if not rule then
rule, command = (function(command)
local length, rule = #command
if length == 6 then
if command == "APPEND"
or command == "GEOADD"
or command == "HSETEX"
or command == "HSETNX"
or command == "LPUSHX"
or command == "PSETEX"
or command == "RPUSHX"
or command == "XSETID"
then rule = 1
elseif command == "MSETEX"
then rule = 9
elseif command == "MSETNX"
then rule = 8
elseif command == "STRLEN"
then rule = 6
elseif command == "LRANGE"
or command == "ZRANGE"
or command == "XRANGE"
or command == "INCRBY"
or command == "BITPOS"
or command == "BLMOVE"
or command == "BLMPOP"
or command == "BZMPOP"
or command == "DECRBY"
or command == "GEOPOS"
or command == "GETBIT"
or command == "GETDEL"
or command == "GETSET"
or command == "HGETEX"
or command == "LINDEX"
or command == "RENAME"
or command == "SETBIT"
or command == "SINTER"
or command == "SUBSTR"
or command == "SUNION"
or command == "VLINKS"
or command == "XCLAIM"
or command == "ZCOUNT"
or command == "ZINTER"
or command == "ZSCORE"
or command == "ZUNION"
then rule = 2
elseif command == "UNLINK"
then rule = 3
end
elseif length == 4 then
if command == "ECHO"
or command == "PING"
or command == "TIME"
then rule = 4
elseif command == "HLEN"
or command == "LLEN"
or command == "TYPE"
or command == "XLEN"
then rule = 6
elseif command == "LSET"
or command == "XACK"
then rule = 1
elseif command == "HGET"
or command == "INCR"
or command == "LPOP"
or command == "RPOP"
or command == "MGET"
or command == "COPY"
or command == "DECR"
or command == "DUMP"
or command == "HTTL"
or command == "LPOS"
or command == "PTTL"
or command == "SORT"
or command == "SPOP"
or command == "VADD"
or command == "VDIM"
or command == "VEMB"
or command == "VREM"
or command == "VSIM"
then rule = 2
elseif command == "HDEL"
or command == "LREM"
or command == "SREM"
or command == "XDEL"
or command == "ZREM"
then rule = 3
elseif command == "SCAN"
then rule = 11
end
elseif length == 8 then
if command == "EXPIREAT"
or command == "HPERSIST"
or command == "HPEXPIRE"
or command == "SETRANGE"
then rule = 1
elseif command == "SMEMBERS"
or command == "BITCOUNT"
or command == "BITFIELD"
or command == "BZPOPMAX"
or command == "BZPOPMIN"
or command == "GETRANGE"
or command == "RENAMENX"
or command == "VGETATTR"
or command == "VSETATTR"
or command == "XPENDING"
or command == "ZREVRANK"
then rule = 2
elseif command == "SPUBLISH"
then rule = 10
end
elseif length == 7 then
if command == "HEXISTS"
or command == "HSTRLEN"
then rule = 6
elseif command == "HEXPIRE"
or command == "LINSERT"
or command == "PERSIST"
or command == "PEXPIRE"
or command == "RESTORE"
then rule = 1
elseif command == "HGETALL"
or command == "HINCRBY"
or command == "GEODIST"
or command == "GEOHASH"
or command == "HGETDEL"
or command == "PFCOUNT"
or command == "PFMERGE"
or command == "SORT_RO"
or command == "ZINCRBY"
or command == "ZMSCORE"
or command == "ZPOPMAX"
or command == "ZPOPMIN"
then rule = 2
elseif command == "DELIFEQ"
then rule = 3
elseif command == "PUBLISH"
then rule = 10
end
elseif length == 9 then
if command == "HEXPIREAT"
or command == "PEXPIREAT"
then rule = 1
elseif command == "GEORADIUS"
or command == "GEOSEARCH"
or command == "RPOPLPUSH"
or command == "VISMEMBER"
or command == "XREVRANGE"
or command == "ZLEXCOUNT"
or command == "ZREVRANGE"
then rule = 2
end
elseif length == 5 then
if command == "HMSET"
or command == "PFADD"
or command == "SETNX"
then rule = 1
elseif command == "SCARD"
or command == "ZCARD"
then rule = 6
elseif command == "TOUCH"
then rule = 5
elseif command == "BITOP"
or command == "BLPOP"
or command == "BRPOP"
or command == "GETEX"
or command == "HKEYS"
or command == "HMGET"
or command == "HPTTL"
or command == "HSCAN"
or command == "HVALS"
or command == "LMOVE"
or command == "LMPOP"
or command == "SDIFF"
or command == "SMOVE"
or command == "SSCAN"
or command == "VCARD"
or command == "VINFO"
or command == "XREAD"
or command == "ZDIFF"
or command == "ZMPOP"
or command == "ZRANK"
or command == "ZSCAN"
then rule = 2
elseif command == "LTRIM"
or command == "XTRIM"
then rule = 3
end
elseif length == 10 then
if command == "HPEXPIREAT"
then rule = 1
elseif command == "BRPOPLPUSH"
or command == "EXPIRETIME"
or command == "HRANDFIELD"
or command == "SDIFFSTORE"
or command == "SINTERCARD"
or command == "SMISMEMBER"
or command == "XAUTOCLAIM"
or command == "XREADGROUP"
or command == "ZDIFFSTORE"
or command == "ZINTERCARD"
then rule = 2
end
elseif length == 3 then
if command == "GET"
or command == "TTL"
or command == "LCS"
then rule = 2
elseif command == "DEL"
then rule = 3
end
elseif length == 13 then
if command == "ZRANGEBYSCORE"
then rule = 2
end
elseif length == 11 then
if command == "BITFIELD_RO"
or command == "HEXPIRETIME"
or command == "INCRBYFLOAT"
or command == "PEXPIRETIME"
or command == "SINTERSTORE"
or command == "SRANDMEMBER"
or command == "SUNIONSTORE"
or command == "VRANDMEMBER"
or command == "ZINTERSTORE"
or command == "ZRANDMEMBER"
or command == "ZRANGEBYLEX"
or command == "ZRANGESTORE"
or command == "ZUNIONSTORE"
then rule = 2
end
elseif length == 17 then
if command == "GEORADIUSBYMEMBER"
then rule = 2
end
elseif length == 20 then
if command == "GEORADIUSBYMEMBER_RO"
then rule = 2
end
elseif length == 12 then
if command == "GEORADIUS_RO"
or command == "HINCRBYFLOAT"
or command == "HPEXPIRETIME"
then rule = 2
end
elseif length == 14 then
if command == "GEOSEARCHSTORE"
or command == "ZREVRANGEBYLEX"
then rule = 2
elseif command == "ZREMRANGEBYLEX"
then rule = 3
end
elseif length == 15 then
if command == "ZREMRANGEBYRANK"
then rule = 3
end
elseif length == 16 then
if command == "ZREMRANGEBYSCORE"
then rule = 3
elseif command == "ZREVRANGEBYSCORE"
then rule = 2
end
end
if rule then
elseif command == "MEMORY" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "USAGE"
then rule = 7
end
elseif command == "OBJECT" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "ENCODING"
or subcommand == "FREQ"
or subcommand == "IDLETIME"
or subcommand == "REFCOUNT"
then rule = 7
end
elseif command == "XGROUP" then
local subcommand = string.upper(4 < stop and argv[5] or '')
command = command .. ' ' .. subcommand
if subcommand == "CREATE"
or subcommand == "CREATECONSUMER"
or subcommand == "SETID"
then rule = 13
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
if rule == 12 then
for at = 7, stop do
if find(argv[at], "^[Gg][Ee][Tt]%f[%z]") then rule = 2 break end
end
end
if rule == 12 then
writes = true
recorded = true
elseif rule == 1 then
writes = true
recorded = true
elseif rule == 5 then
last = stop
elseif rule == 14 then
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 8 then
last = stop
step = 2
writes = true
recorded = true
elseif rule == 6 then
else
(function(rule, argv, stop, find)
if rule == 4 then
last = 4
typed = protocol == '3'
elseif rule == 7 then
first = 6
last = 6
typed = protocol == '3'
elseif rule == 9 then
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
elseif rule == 13 then
first = 6
last = 6
writes = true
recorded = true
typed = protocol == '3'
elseif rule == 2 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "read"
elseif rule == 3 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "delete"
elseif rule == 10 then
code, detail, value = 'CLASS_NOT_GRANTED', 'class', "publish"
elseif rule == 11 then
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
if writes then
place_1 = 48 + head_1 * 8
local oldest = call('GETRANGE', "keyleash:state:agent-recovery", place_1, place_1 + 7)
local free_us = 0
if oldest ~= '' then free_us = struct.unpack('<d', oldest) + 60000000 end
if free_us > now_us then
code, detail, value, at_us = 'RATE_LIMITED', 'limit', "rate.writes", free_us
end
if code then break end
end
if true then
if used_2 >= 5000 and now_us < ends_2 then
code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', "budget.requests", ends_2
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
event = call('XADD', "keyleash:audit:agent-recovery", '*', 'seq', sequence, 'token', token_id, 'op', command, 'cost', cost, field, touched, 'correlation', correlation, 'policy', "30205db20396")
end
if now_us % 7 == 0 then
call('XTRIM', "keyleash:audit:agent-recovery", 'MAXLEN', '~', "100000")
end
end
if typed then redis.setresp(3) end
local reply = redis.pcall(unpack(argv, 4))
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
if redis.pcall('HINCRBY', "keyleash:repeats:agent-recovery", alike, '1') == 1 then
(function(code, reason, op, key, token_id, correlation, minute, alike)
local of = key or ''
local seq = redis.pcall('HINCRBY', "keyleash:repeats:agent-recovery", 'seq', 1)
local id = redis.pcall('XADD', "keyleash:denied:agent-recovery", 'MAXLEN', '~', "10000", '*', 'seq', seq, 'token', token_id, 'code', code, 'reason', reason, 'op', op, 'key', string.sub(of, 1, 256), 'correlation', correlation, 'policy', "30205db20396")
if type(id) == 'string' then
local held = redis.pcall('HGET', "keyleash:repeats:agent-recovery", 'minute')
if held and (held ~= minute or redis.pcall('HLEN', "keyleash:repeats:agent-recovery") > 256) then
local counts, ids = {}, redis.pcall('HGETALL', "keyleash:repeats:agent-recovery")
for i = 1, #ids, 2 do counts[ids[i]] = ids[i + 1] end
for name, first_id in pairs(counts) do
local count = counts[string.sub(name, 4)]
if find(name, '^id:') and count and count ~= '1' then
redis.pcall('XADD', "keyleash:denied:agent-recovery", '*', 'of', first_id, 'repeats', count)
end
end
redis.pcall('DEL', "keyleash:repeats:agent-recovery")
redis.pcall('HSET', "keyleash:repeats:agent-recovery", 'seq', seq, alike, 1)
end
redis.pcall('HSET', "keyleash:repeats:agent-recovery", 'minute', minute, 'id:' .. alike, id)
end
end)(code, reason or '', op, key, token_id or '-', correlation, minute, alike)
end
end
return { err = line }
