#!lua flags=allow-oom
--- revoke: revoke tokens, from the next call on.
---
--- KEYS[1]  layouts   hash    layouts of all states
--- KEYS[2]  control   stream  operator actions
---
--- ARGV[1]  tokens    string  prefix of the hashes of an identity's tokens
--- ARGV[2]  token     string  prefix of token records
--- ARGV[3]  leases    string  prefix of the hashes of an identity's leases
--- ARGV[4]  delegated string  prefix of the hashes of an identity's child tokens
--- ARGV[5]  offset    number  place of the byte that revokes a record
--- ARGV[6]  actor     string
--- ARGV[7]  identity  string  "" for every identity that ever had a state
--- ARGV[8]  id        string  a token id, or "" for all issued tokens of the identity
--- ARGV[9]  reason    string  "" for none
---
--- Replies  now_us, then identity, id, … of the tokens that this call revoked; "" for the id of one
---          whose record is corrupt, which could not be revoked
---
--- The script looks up the tokens, so that one issued a moment ago is revoked too.
local layouts_key, control_key, tokens_prefix, token_prefix = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local leases_prefix, delegated_prefix, revoked_offset = ARGV[3], ARGV[4], ARGV[5]
local call = redis.call
local reason = ARGV[9] ~= '' and { 'reason', ARGV[9] } or {}
local time = call('TIME')
local revoked = { string.format('%.0f', time[1] * 1000000 + time[2]) }
local identities = { ARGV[7] }
if ARGV[7] == '' then identities = call('HKEYS', layouts_key) end
for _, identity in ipairs(identities) do
  local known = call('HGETALL', tokens_prefix .. identity)
  -- With its issued tokens, all their children end. A key of another type has none.
  local child = ARGV[8] ~= '' and redis.pcall('HGET', delegated_prefix .. identity, ARGV[8])
  if type(child) == 'string' then known[#known + 1], known[#known + 2] = ARGV[8], child end
  for i = 1, #known, 2 do
    local wanted = ARGV[8] == '' or ARGV[8] == known[i]
    -- A corrupt record must not prevent the revocation of others.
    local is_read, facts = pcall(cjson.decode, known[i + 1])
    local digest = is_read and type(facts) == 'table' and facts.digest
    local record = token_prefix .. identity .. ':' .. tostring(digest)
    local flags = wanted and string.byte(call('GETRANGE', record, revoked_offset, revoked_offset)) or 1
    if wanted and type(digest) ~= 'string' then
      revoked[#revoked + 1], revoked[#revoked + 2] = identity, ''
    elseif flags % 2 == 0 then
      call('SETRANGE', record, revoked_offset, string.char(flags + 1))
      call('UNLINK', leases_prefix .. identity .. ':' .. known[i])
      call('XADD', control_key, '*', 'event', 'revoke', 'actor', ARGV[6],
        'identity', identity, 'token', known[i], unpack(reason))
      revoked[#revoked + 1], revoked[#revoked + 2] = identity, known[i]
    end
  end
end
return revoked
