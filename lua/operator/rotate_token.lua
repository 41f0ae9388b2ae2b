--- rotate_token: put a new token beside others, which end when the grace does.
---
--- KEYS     none
---
--- ARGV[1]  actor     string
--- ARGV[2]  identity  string
--- ARGV[3]  ttl_s     string  wanted life of the new token in seconds; "" for that of the policy
--- ARGV[4]  note      string  of the new token
--- ARGV[5]  old       string  id of the token that is replaced; "" for all live ones of the identity
--- ARGV[6]  grace_ms  string  how long it is still good, if it does not expire before
--- ARGV[7]  id        string  of the new token
--- ARGV[8]  digest    string  its SHA-1
---
--- Replies  when the new one expires (Unix ms), 1 if max_ttl shortened its life or 0, then for each
---          token that is replaced: its id, and when it expires (Unix ms)
---        | 0 no active policy has the identity: nothing was changed
---        | 1 the token that was to be replaced is not live: nothing was changed
---        | nil the prefixes are others by now: nothing was changed
---
--- One script, so that there is no moment with the old token cut and no new one to go on with.
local call, argv = redis.call, ARGV
--% include "operator/include/is_in_force.lua"
--% include "operator/include/issue.lua"
if not is_in_force() then return false end
local identity, old, grace_ms, id = argv[2], argv[5], argv[6] + 0, argv[7]
local tokens, record_prefix = {{ names.tokens_prefix }} .. identity, {{ names.token_prefix }} .. identity .. ':'
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
-- A whole millisecond that is not to come, so that a grace of 0 binds the very next call.
local ends_us = now_us - now_us % 1000 + grace_ms * 1000

local ending = {}
local known = old == '' and call('HGETALL', tokens) or { old, call('HGET', tokens, old) }
for i = 1, #known, 2 do
  local facts = known[i + 1] and cjson.decode(known[i + 1])
  local key = facts and record_prefix .. facts.digest
  local record = key and call('GET', key)
  -- A fenced agent may write any bytes there: what is shorter is no record.
  if record and #record >= {{ record_bytes }} then
    local expires_us, _, revoked = struct.unpack('<ddBc12', record)
    if revoked == 0 and expires_us > now_us then
      expires_us = math.min(expires_us, ends_us)
      ending[#ending + 1] = { id = known[i], key = key, facts = facts, expires_us = expires_us }
    end
  end
end
if old ~= '' and not ending[1] then return 1 end

-- First the one write that a full server refuses: a script does not roll back.
local new_expires_ms, capped = issue(identity, argv[1], argv[4], argv[3], now_us, { id, argv[8] }, 1, 2)
if not new_expires_ms then return 0 end
local said = { string.format('%.0f', new_expires_ms), capped }
for _, one in ipairs(ending) do
  local expires_ms = one.expires_us / 1000
  call('SETRANGE', one.key, 0, struct.pack('<d', one.expires_us))
  -- The guard tells the time by how long the record is kept, so both move together.
  call('PEXPIREAT', one.key, string.format('%.0f', expires_ms + {{ keep_record_ms }}))
  one.facts.replaced_by = id
  call('HSET', tokens, one.id, cjson.encode(one.facts))
  call('XADD', {{ names.control }}, '*', 'event', 'rotate-token', 'actor', argv[1], 'identity', identity,
    'token', one.id, 'replaced_by', id, 'expires_ms', string.format('%.0f', expires_ms))
  said[#said + 1], said[#said + 2] = one.id, string.format('%.0f', expires_ms)
end
return said
