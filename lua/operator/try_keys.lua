--- try_keys: look for two keys that are not declared, which some managed services deny.
---
--- KEYS     none
---
--- ARGV[1]  first   string  a name of no key
--- ARGV[2]  second  string  the same, of another slot
---
--- Replies  0
redis.call('EXISTS', ARGV[1])
return redis.call('EXISTS', ARGV[2])
