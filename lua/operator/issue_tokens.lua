--- issue_tokens: store new tokens of an identity, all or none.
---
--- KEYS[1]   control   stream  operator actions
---
--- ARGV[1]   guard     string  prefix of guard records
--- ARGV[2]   tokens    string  prefix of the hashes of an identity's tokens
--- ARGV[3]   token     string  prefix of token records
--- ARGV[4]   noted_us  number  minimum interval between updates of a token's last use
--- ARGV[5]   idle_us   number  the same for a token with an idle timeout
--- ARGV[6]   keep_ms   number  time for which a record outlives its token
--- ARGV[7]   bound     number  the flag of a bound token in a record
--- ARGV[8]   actor     string
--- ARGV[9]   identity  string
--- ARGV[10]  ttl_s     string  wanted life in seconds; "" for that of the policy
--- ARGV[11]  note      string
--- ARGV[12]  meta      string  labels, as JSON; "" for none
--- ARGV[13]  tail      string  the restrictions, as records have them; "" for none
--- ARGV[14]  given     string  the restrictions for the control stream, as JSON; "" for none
--- ARGV[15…] for each token: its id, its SHA-1
---
--- Replies  when they expire (Unix ms); 1 if max_ttl shortened their life, else 0
---        | 0 no active policy has the identity: nothing was stored
---
--- The rules are those of the guard record, so no token is issued by a policy that is not active.
local control_key = KEYS[1]
local guard_prefix, tokens_prefix, token_prefix = ARGV[1], ARGV[2], ARGV[3]
local use_noted_us, use_noted_idle_us, keep_record_ms, bound_flag = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local call, argv = redis.call, ARGV
--% include "operator/include/issue.lua"
local time = call('TIME')
local expires_ms, capped = issue(argv[9], argv[8], argv[11], argv[12], argv[13], argv[14], argv[10], time[1] * 1000000 + time[2], argv, 15, #argv)
if not expires_ms then return 0 end
return { string.format('%.0f', expires_ms), capped }
