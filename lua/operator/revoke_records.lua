--- revoke_records: revoke token records that have no entry, which fenced agents wrote.
---
--- KEYS     none: the records are named by the arguments
---
--- ARGV[1]  token     string  prefix of token records
--- ARGV[2]  offset    number  of the flags in a record
--- ARGV[3…] names     string  identity, `:` and SHA-1 of each record; those of tokens with an entry
---                            are revoked already
---
--- Replies  the number of records that this call revoked
local token_prefix, revoked_offset, call, argv, revoked = ARGV[1], ARGV[2], redis.call, ARGV, 0
for i = 3, #argv do
  local record = token_prefix .. argv[i]
  local flags = redis.pcall('GETRANGE', record, revoked_offset, revoked_offset)
  flags = type(flags) == 'string' and string.byte(flags) or 1
  -- Children end with their ancestors.
  if flags % 2 == 0 and flags % 8 < 4 then
    call('SETRANGE', record, revoked_offset, string.char(flags + 1))
    revoked = revoked + 1
  end
end
return revoked
