--- issue_tokens: store new tokens of an identity, all or none.
---
--- KEYS[1]   sealed    hash    the prefixes in force
--- KEYS[2]   control   stream  operator actions
---
--- ARGV[1]   prefix    string  of the control keys, as the caller knows it
--- ARGV[2]   public    string  the prefix without a record in `sealed`
--- ARGV[3]   guard     string  prefix of guard records
--- ARGV[4]   tokens    string  prefix of the hashes of an identity's tokens
--- ARGV[5]   token     string  prefix of token records
--- ARGV[6]   noted_us  number  minimum interval between updates of a token's last use
--- ARGV[7]   idle_us   number  the same for a token with an idle timeout
--- ARGV[8]   keep_ms   number  time for which a record outlives its token
--- ARGV[9]   bound     number  the flag of a bound token in a record
--- ARGV[10]  actor     string
--- ARGV[11]  identity  string
--- ARGV[12]  ttl_s     string  wanted life in seconds; "" for that of the policy
--- ARGV[13]  note      string
--- ARGV[14]  meta      string  labels, as JSON; "" for none
--- ARGV[15]  tail      string  the restrictions, as records have them; "" for none
--- ARGV[16]  given     string  the restrictions for the control stream, as JSON; "" for none
--- ARGV[17…] for each token: its id, its SHA-1
---
--- Replies  when they expire (Unix ms); 1 if max_ttl shortened their life, else 0
---        | 0 no active policy has the identity: nothing was stored
---        | nil the prefixes have changed: nothing was stored
---
--- The rules are those of the guard record, so no token is issued by a policy that is not active.
local sealed_key, control_key, prefix, public_prefix = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local guard_prefix, tokens_prefix, token_prefix = ARGV[3], ARGV[4], ARGV[5]
local use_noted_us, use_noted_idle_us, keep_record_ms, bound_flag = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local call, argv = redis.call, ARGV
--% include "operator/include/issue.lua"
--% include "operator/include/require_in_force.lua"
local time = call('TIME')
local expires_ms, capped = issue(argv[11], argv[10], argv[13], argv[14], argv[15], argv[16], argv[12], time[1] * 1000000 + time[2], argv, 17, #argv)
if not expires_ms then return 0 end
return { string.format('%.0f', expires_ms), capped }
