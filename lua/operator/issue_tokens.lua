--- issue_tokens: store new tokens of an identity, all or none.
---
--- KEYS     none
---
--- ARGV[1]  actor     string
--- ARGV[2]  identity  string
--- ARGV[3]  ttl_s     string  wanted life in seconds; "" for that of the policy
--- ARGV[4]  note      string
--- ARGV[5…] for each token: its id, its SHA-1
---
--- Replies  when they expire (Unix ms); 1 if max_ttl shortened their life, else 0
---        | 0 no active policy has the identity: nothing was stored
---        | nil the prefixes are others by now: nothing was stored
---
--- The rules are those of the guard record, so no token is issued by a policy that is not active.
local call, argv = redis.call, ARGV
--% include "operator/include/is_in_force.lua"
--% include "operator/include/issue.lua"
if not is_in_force() then return false end
local time = call('TIME')
local expires_ms, capped = issue(argv[2], argv[1], argv[4], argv[3], time[1] * 1000000 + time[2], argv, 5, #argv)
if not expires_ms then return 0 end
return { string.format('%.0f', expires_ms), capped }
