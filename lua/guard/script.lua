--- script: run one approved script of one identity, and check each of its commands.
---
--- KEYS      the keys that the caller declares to the script
---
--- ARGV[1]   token        string
--- ARGV[2]   correlation  string  copied into events, up to 256 bytes; perhaps `<source>\n` before it
--- ARGV[3]   script       string  SHA-1 of the script; with `ro` after it, its writes are errors;
---                                with `check` at the end, nothing is charged, recorded or runs
--- ARGV[4…]  its arguments
---           on a cluster one more: the tag of the shard, or a voucher
---
--- Replies   the script's own reply | LEASH <CODE> key=value …
---           on a cluster also LEASH LEASE_NEEDED request=<for the home>: nothing ran
---
--- Limits count the call once, as a call of every class that its commands may have. One event lists
--- the commands that change something. A denied command is an error in the script.

-- First, so that no local of the guard is in reach of a script. Its globals are these parameters;
-- the compiler found no other, and the locals hide what a server has besides.
local function approved(__d, redis, KEYS, ARGV, string, table, math, bit, cjson, cmsgpack, struct, assert, error, ipairs, next, pairs, pcall, rawequal, select, tonumber, tostring, type, unpack, __t, __v, __c, __m, __b, __l, __n, __k, __begin)
  local _G, server, loadstring, load, loadfile, dofile, getfenv, setfenv, getmetatable, setmetatable, rawget, rawset, newproxy, coroutine, debug, collectgarbage, xpcall, module, require, package, os, io
  if false then
--% for script in scripts
  elseif __d == {{ script.digest }} then
    __begin({{ script.code.count("\n") }})
    return {{ script.code }}
--% endfor
  end
end
local call, find, type, unpack, tonumber = redis.call, string.find, type, unpack, tonumber
local keys, argv = KEYS, ARGV
--% if cluster
--% include "lease/shard_locals.lua"
--% endif
local token, correlation, digest = argv[1] or '', argv[2] or '', argv[3] or ''
local code, detail, value, amount, reason, at_us, token_id, key, now_us
local command, only_reads, is_check = 'EVALSHA'
digest, is_check = string.gsub(digest, 'check$', '')
is_check = is_check > 0
digest, only_reads = string.gsub(digest, 'ro$', '')
--% if breaker
local suspends
--% endif
--% if audit.source
--% include "record/take_source.lua"
--% endif
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
--% if cluster
--% include "authenticate_shard.lua"
--% else
--% include "authenticate.lua"
--% endif
  if code then break end
--% if cluster
  if lacks then
--% include "lease/ask.lua"
  end
--% endif
--% include "script/check_script.lua"
  if code then break end
  repeat
--% with limits = call_limits, checks_bytes = false
--% include "limit.lua"
--% endwith
  until true
  if code then break end
--% if cluster
  if lacks then
--% include "lease/ask.lua"
  end
--% endif
  if is_check then return {} end

  recorded = false
--% include "limit/commit_limits.lua"
--% include "record/cost_of_call.lua"
--% include "script/check_command.lua"
--% include "script/run_script.lua"
--% include "script/complete_event.lua"
  if code then break end
  return result
until true
--% include "reply/deny.lua"
return { err = line }
