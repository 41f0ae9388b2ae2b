--- collect: move Lua's collector on, a little.
---
--- KEYS     none
---
--- ARGV[1]  work  string  how much, in the collector's own measure: about KiB of memory, twice
---
--- Replies  nil it has come around | the KiB that Lua's machine holds
if collectgarbage('step', ARGV[1]) then return false end
return collectgarbage('count')
