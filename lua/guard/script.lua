--- script: run an approved script of one identity, or a transaction of scripts and plain commands.
---
--- KEYS      the keys that the caller declares to the script, or those of all items
---
--- ARGV[1]   token        string
--- ARGV[2]   correlation  string  copied into events, up to 256 bytes; perhaps `<source>\n` before it
--- ARGV[3]   script       string  SHA-1 of the script; with `ro` after it, its writes are errors;
---                                with `check` at the end, nothing is charged, recorded or runs
---                                for a transaction its mode, as of a batch: "all" or "prepare"
--- ARGV[4…]  its arguments; of a transaction, for each item how many words it has, and these: a
---           command, or `EVALSHA` or `EVALSHA_RO` with SHA-1, number of keys, keys and arguments
---           on a cluster one more: the tag of the shard, or a voucher
---
--- Replies   the script's own reply, or an array of those of the items | LEASH <CODE> key=value …
---           on a cluster also LEASH LEASE_NEEDED request=<for the home>: nothing ran
---
--- All items are checked before the first one runs; plain commands again at their turn, since scripts
--- may have changed what their keys hold. A denial then is an error in its place. Limits count a
--- script once, as a call of every class that its commands may have. Each script has an event of its
--- commands that change something; plain commands that follow each other share one.

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
local token, correlation, mode = argv[1] or '', argv[2] or '', argv[3] or ''
local code, detail, value, amount, reason, at_us, token_id, key, now_us, item
local command, is_lone, is_check, only_reads = 'EVALSHA', mode ~= 'all' and mode ~= 'prepare', find(mode, 'check$') ~= nil
mode = string.gsub(mode, 'check$', '')
--% if breaker
local suspends
--% endif
--% if audit.source
--% include "record/take_source.lua"
--% endif
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
local function deny(code, detail, value, amount, reason, at_us, command, key, item)
--% include "reply/deny.lua"
  return line
end
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
--% include "authorize/batch_locals.lua"
  -- Of each event: the calls, reads, writes and deletes that it takes of limits, and its script.
  local items, spelled, recorded, charge = {}, 0, false
--% include "script/check_command.lua"
  repeat
    local name_at, words, digest, script, own_keys, own_argv = 3
--% include "authorize/command_locals.lua"
    repeat
--% include "script/check_item.lua"
      if code then break end
      -- The commands of a script are measured when they run.
      local stop = words and stop or name_at
--% include "limit.lua"
    until true
    if code then item = not is_lone and #items + 1 or nil break end
    if script or not charge or charge[5] ~= '' then charge = { 0, 0, 0, 0, script or '' } end
    passed, charge[1] = passed + 1, charge[1] + 1
    if reads then passed_reads, charge[2] = passed_reads + 1, charge[2] + 1 end
    if writes then passed_writes, charge[3] = passed_writes + 1, charge[3] + 1 end
    if deletes then passed_deletes, charge[4] = passed_deletes + 1, charge[4] + 1 end
--% include "limit/collect_counts.lua"
    items[passed] = { words, digest, script, own_keys, own_argv, only_reads, charge }
  until is_lone or not argv[stop + 1]
  if code then break end
--% if cluster
  if lacks then
--% include "lease/ask.lua"
  end
--% endif
  if is_check or mode == 'prepare' then return {} end
--% include "limit/commit_limits.lua"
--% include "script/run_items.lua"
--% if byte_limits or counts_bytes
--% with written_limits = byte_limits, written_caps = ("bytes_read", "bytes_written")
--% include "limit/write_bytes.lua"
--% endwith
--% endif
  if is_lone then return replies[1] end
  return replies
until true
return { err = deny(code, detail, value, amount, reason, at_us, command, key, item) }
