--- rotate_token: issue a new token, and end others after a grace period.
---
--- KEYS[1]   control   stream  operator actions
---
--- ARGV[1]   guard     string  prefix of guard records
--- ARGV[2]   tokens    string  prefix of the hashes of an identity's tokens
--- ARGV[3]   token     string  prefix of token records
--- ARGV[4]   children  string  prefix of the sets of children of tokens
--- ARGV[5]   noted_us  number  minimum interval between updates of a token's last use
--- ARGV[6]   idle_us   number  the same for a token with an idle timeout
--- ARGV[7]   keep_ms   number  time for which a record outlives its token
--- ARGV[8]   bound     number  the flag of a bound token in a record
--- ARGV[9]   bytes     number  length of a token record without restrictions
--- ARGV[10]  rotated   number  the flag of a rotated token, where tokens delegate
--- ARGV[11]  offset    number  place of the flags in a record
--- ARGV[12]  actor     string
--- ARGV[13]  identity  string
--- ARGV[14]  ttl_s     string  wanted life of the new token in seconds; "" for the longest with which
---                             a replaced token was issued, or that of the policy if there is none
--- ARGV[15]  note      string  of the new token
--- ARGV[16]  old       string  id of the token that is replaced; "" for all live ones of the identity
---                             that are not bound
--- ARGV[17]  grace_ms  string  how long it is still good, if it does not expire before
--- ARGV[18]  id        string  of the new token
--- ARGV[19]  digest    string  its SHA-1
---
--- Replies  when the new one expires (Unix ms), 1 if max_ttl shortened its life or 0, the number of
---          bound tokens that stay valid, then for each token that is replaced: its id, and when it
---          expires (Unix ms)
---        | 0 no active policy has the identity: nothing was changed
---        | 1 the token that was to be replaced is not live: nothing was changed
---        | 2 all live tokens of the identity are bound: nothing was changed
---
--- One script, so that the old token is never revoked before the new one is valid.
local control_key = KEYS[1]
local guard_prefix, tokens_prefix, token_prefix, children_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local use_noted_us, use_noted_idle_us, keep_record_ms = ARGV[5], ARGV[6], ARGV[7]
local bound_flag, record_bytes = tonumber(ARGV[8]), tonumber(ARGV[9])
local rotated_flag, flags_offset = tonumber(ARGV[10]), ARGV[11]
local call, argv = redis.call, ARGV
--% include "operator/include/issue.lua"
local identity, old, grace_ms, id = argv[13], argv[16], argv[17] + 0, argv[18]
local tokens, record_prefix = tokens_prefix .. identity, token_prefix .. identity .. ':'
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
-- A whole millisecond that is not to come, so that a grace of 0 binds the very next call.
local ends_us = now_us - now_us % 1000 + grace_ms * 1000

-- The labels and the restrictions of a single token, with what its caps have counted.
local ending, meta, tail, bound, life_s = {}, '', '', 0, 0
local known = old == '' and call('HGETALL', tokens) or { old, call('HGET', tokens, old) }
for i = 1, #known, 2 do
  local facts = known[i + 1] and cjson.decode(known[i + 1])
  local key = facts and record_prefix .. facts.digest
  local record = key and call('GET', key)
  -- What is shorter is no record.
  if record and #record >= record_bytes then
    local expires_us, _, flags = struct.unpack('<ddBc12', record)
    if flags >= rotated_flag then flags = flags - rotated_flag end
    if flags == bound_flag and old == '' and expires_us > now_us then bound = bound + 1 end
    if (flags == 0 or flags == bound_flag and old ~= '') and expires_us > now_us then
      if old ~= '' then
        if flags == bound_flag then tail = string.sub(record, record_bytes + 1) end
        if type(facts.meta) == 'table' then meta = cjson.encode(facts.meta) end
      end
      life_s = math.max(life_s, (facts.expires_ms - facts.issued_ms) / 1000)
      expires_us = math.min(expires_us, ends_us)
      ending[#ending + 1] = { id = known[i], key = key, facts = facts, flags = flags, expires_us = expires_us }
    end
  end
end
if old ~= '' and not ending[1] then return 1 end
-- The new token would not be bound.
if bound > 0 and not ending[1] then return 2 end

-- By the flag, the children of a token end at once. Guards without delegation do not know it and
-- deny the token; there it is set only if a later policy could bring children back.
local delegates = call('HGET', guard_prefix .. identity, 'delegates') == '1'
local ttl_s = argv[14] ~= '' and argv[14] or life_s > 0 and life_s or ''
-- First the one write that a full server rejects: a script does not roll back.
local new_expires_ms, capped = issue(identity, argv[12], argv[15], meta, tail, '', ttl_s, now_us, { id, argv[19] }, 1, 2)
if not new_expires_ms then return 0 end
local reply = { string.format('%.0f', new_expires_ms), capped, bound }
for _, token in ipairs(ending) do
  local expires_ms = token.expires_us / 1000
  call('SETRANGE', token.key, 0, struct.pack('<d', token.expires_us))
  -- An error counts as children.
  local children = redis.pcall('ZCOUNT', children_prefix .. identity .. ':' .. token.id, string.format('(%.0f', now_us / 1000), '+inf')
  if delegates or children ~= 0 then call('SETRANGE', token.key, flags_offset, string.char(token.flags + rotated_flag)) end
  -- The guard reads the time from the life of the record, so both move together.
  call('PEXPIREAT', token.key, string.format('%.0f', expires_ms + keep_record_ms))
  token.facts.replaced_by = id
  call('HSET', tokens, token.id, cjson.encode(token.facts))
  call('XADD', control_key, '*', 'event', 'rotate-token', 'actor', argv[12], 'identity', identity,
    'token', token.id, 'replaced_by', id, 'expires_ms', string.format('%.0f', expires_ms))
  reply[#reply + 1], reply[#reply + 2] = token.id, string.format('%.0f', expires_ms)
end
return reply
