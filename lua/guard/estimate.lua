--- estimate: return how much work a call is, as a guard estimates it before the call runs.
---
--- KEYS      the keys of the call, as the server has them
---
--- ARGV[1]   left     number  the work that is allowed; sizes are not asked for beyond it
--- ARGV[2]   units    number  the work of a string in the reply
--- ARGV[3]   name     string  the command's name, with its sub-command's
--- ARGV[4…]  the call, its name first
---
--- Replies   the units of work as text, `inf` if the server does not report the size of a key
local call, find = redis.call, string.find
local keys, argv = KEYS, ARGV
local units = tonumber(argv[2])
--% include "authorize/estimate_work.lua"
local work, asked = weigh(argv[3], argv, 4, #argv, keys, tonumber(argv[1]))
return string.format('%.3f', work + asked)
