--- estimate: return how much work a call is, as a guard estimates it before the call runs.
---
--- KEYS      the keys of the call, as the server has them
---
--- ARGV[1]   left     number  the work that is allowed; sizes are not asked for beyond it
--- ARGV[2]   name     string  the command's name, with its sub-command's
--- ARGV[3…]  the call, its name first
---
--- Replies   the units of work as text, `inf` if the server does not report the size of a key
local call, find = redis.call, string.find
local keys, argv = KEYS, ARGV
--% include "authorize/estimate_work.lua"
local work, asked = weigh(argv[2], argv, 3, #argv, keys, tonumber(argv[1]))
return string.format('%.3f', work + asked)
