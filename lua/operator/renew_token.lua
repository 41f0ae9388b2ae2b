--- renew_token: let a token live longer.
---
--- KEYS[1]   control   stream  operator actions
---
--- ARGV[1]   guard     string  prefix of guard records
--- ARGV[2]   tokens    string  prefix of the hashes of an identity's tokens
--- ARGV[3]   token     string  prefix of token records
--- ARGV[4]   children  string  prefix of the sets of children of an identity's tokens
--- ARGV[5]   keep_ms   number  time for which a record outlives its token
--- ARGV[6]   bound     number  the flag of a bound token in a record
--- ARGV[7]   bytes     number  length of a token record without restrictions
--- ARGV[8]   actor     string
--- ARGV[9]   identity  string
--- ARGV[10]  id        string  of the token
--- ARGV[11]  ttl_s     string  wanted life from now in seconds; "" for that of the issue
---
--- Replies  when it expires (Unix ms); 1 if max_ttl shortened its life, else 0
---        | 0 no active policy has the identity
---        | 1 the token is not live
---        | 2 it was replaced
---        | 3 it is as old as max_ttl allows
---         In all of these cases nothing was changed.
---
--- A renewal never shortens a life. The life ends at most max_ttl after the issue.
local control_key = KEYS[1]
local guard_prefix, tokens_prefix, token_prefix, children_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local keep_record_ms, bound_flag, record_bytes = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local actor, identity, id, wanted_s = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local call = redis.call
local max_ttl_s = call('HGET', guard_prefix .. identity, 'max_ttl_s')
if not max_ttl_s then return 0 end
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local entry = call('HGET', tokens_prefix .. identity, id)
local facts = entry and cjson.decode(entry)
local key = facts and token_prefix .. identity .. ':' .. facts.digest
local record = key and call('GET', key)
-- What is shorter is no record.
if not record or #record < record_bytes then return 1 end
local expires_us, _, flags = struct.unpack('<ddBc12', record)
if flags % 2 == 1 or not (expires_us > now_us) then return 1 end
if facts.replaced_by then return 2 end
if flags ~= 0 and flags ~= bound_flag then return 1 end
local latest_us = math.min(facts.issued_ms * 1000, now_us) + max_ttl_s * 1000000
local life_us = wanted_s ~= '' and wanted_s * 1000000 or (facts.expires_ms - facts.issued_ms) * 1000
local wanted_us = now_us + life_us
local renewed_ms = math.floor(math.min(wanted_us, latest_us) / 1000)
local capped = wanted_us > latest_us and 1 or 0
if renewed_ms * 1000 > expires_us then
  call('XLEN', control_key)
  -- In one command, as guards compute the time from expiry and life.
  record = struct.pack('<d', renewed_ms * 1000) .. string.sub(record, 9)
  call('SET', key, record, 'PXAT', string.format('%.0f', renewed_ms + keep_record_ms))
  -- The set that bounds the number of its children lives as long.
  call('PEXPIREAT', children_prefix .. identity .. ':' .. id, string.format('%.0f', renewed_ms))
  call('XADD', control_key, '*', 'event', 'renew', 'actor', actor, 'identity', identity, 'token', id,
    'expires_ms', string.format('%.0f', renewed_ms))
elseif capped == 1 then
  return 3
else
  renewed_ms = expires_us / 1000
end
return { string.format('%.0f', renewed_ms), capped }
