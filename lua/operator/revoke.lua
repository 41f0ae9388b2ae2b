--- revoke: make tokens useless from the next call on.
---
--- KEYS     none
---
--- ARGV[1]  actor     string
--- ARGV[2]  identity  string  "" for every identity that ever had a state
--- ARGV[3]  id        string  a token id, or "" for all tokens of the identity
---
--- Replies  now_us, then identity, id, … of the tokens that this call revoked; "" for the id of one
---          that it could not, as what is recorded of it cannot be read
---
--- The tokens are looked up in here: one issued a moment ago must not slip through.
local call = redis.call
local time = call('TIME')
local revoked = { string.format('%.0f', time[1] * 1000000 + time[2]) }
local identities = { ARGV[2] }
if ARGV[2] == '' then identities = call('HKEYS', {{ names.layouts }}) end
for _, identity in ipairs(identities) do
  local known = call('HGETALL', {{ names.tokens_prefix }} .. identity)
  for i = 1, #known, 2 do
    local wanted = ARGV[3] == '' or ARGV[3] == known[i]
    -- One record that somebody spoilt must not keep the others alive.
    local is_read, facts = pcall(cjson.decode, known[i + 1])
    local digest = is_read and type(facts) == 'table' and facts.digest
    local record = {{ names.token_prefix }} .. identity .. ':' .. tostring(digest)
    if wanted and type(digest) ~= 'string' then
      revoked[#revoked + 1], revoked[#revoked + 2] = identity, ''
    elseif wanted and call('GETRANGE', record, {{ revoked_offset }}, {{ revoked_offset }}) == '\0' then
      call('SETRANGE', record, {{ revoked_offset }}, '\1')
      call('XADD', {{ names.control }}, '*', 'event', 'revoke', 'actor', ARGV[1],
        'identity', identity, 'token', known[i])
      revoked[#revoked + 1], revoked[#revoked + 2] = identity, known[i]
    end
  end
end
return revoked
