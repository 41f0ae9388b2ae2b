#!lua flags=allow-oom
--- confirm: change a key for a moment, so that WAIT on this connection counts all earlier writes.
---
--- KEYS[1]  confirmed  string
---
--- Replies  1
redis.call('SET', KEYS[1], '')
return redis.call('DEL', KEYS[1])
