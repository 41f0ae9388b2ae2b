-- libraries: make the libraries of a script: functions that cost more than a unit count their work.
-- in:  strings, spend, made, tick, size, sizes, counted, numeral, numerals, numeric, key_of, odd_keys, whole, measure,
--      steps, perform, ran, raised
-- out: odd_keys, strings, tables, maths, bits, json, msgpack, structs, library, error_of, next_of, pairs_of, select_of,
--      tonumber_of, tostring_of, unpack_of, copy, words, raised
local tables, maths, bits, json, msgpack, structs, unpack_of, select_of, tonumber_of, tostring_of, error_of, next_of, pairs_of
--% if "string" in uses
--% include "script/strings.lua"
--% endif
--% if "table" in uses
--% include "script/tables.lua"
--% endif
--% if "unpack" in uses
unpack_of = function(list, from, to)
  from, to = whole(from), whole(to)
  spend(1 + math.max(0, (to or #list) - (from or 1)) / 8)
  return unpack(list, from, to)
end
--% endif
--% if "select" in uses
select_of = function(place, ...)
  spend(1 + select('#', ...) / 8)
  return select(numeral(place), ...)
end
--% endif
--% if "error" in uses
-- An error puts its place before the text, which copies it.
error_of = function(message, level)
  level = whole(level) or 1
  spend(6 + {{ string_units }} + size(message) / 64)
  error(message, level > 0 and level + 1 or level)
end
--% endif
--% if "tonumber" in uses
tonumber_of = counted(tonumber, function(text, digits)
  numeral(digits)
  return size(text)
end)
--% endif
--% if "tostring" in uses
tostring_of = counted(tostring, function() return 128 end)
--% endif
--% if "next" in uses or "pairs" in uses
-- A table has at most as many empty places as units were used. A walk in order passes each once, and
-- every other step may pass all.
local function walker()
  local walked, place
  return function(list, name)
    tick(1)
    if name == nil or not (rawequal(list, walked) and rawequal(name, place)) then spend(steps / 80) end
    local found, part = next(list, name)
    walked, place = list, found
    return found, part
  end
end
next_of = walker()
pairs_of = function(list)
  pairs(list)
  return walker(), list, nil
end
--% endif
--% if "math" in uses or "bit" in uses
local function copied(from, names)
  local copy = {}
  for name in string.gmatch(names, '%S+') do
    copy[name] = type(from[name]) == 'function' and numeric(from[name]) or from[name]
  end
  return copy
end
maths, bits = copied(math, {{ members.math }}), copied(bit, {{ members.bit }})
maths.fmod = counted(math.fmod, function(...)
  numerals(...)
  return 64
end)
maths.mod = maths.fmod
--% endif
--% if "cjson" in uses or "cmsgpack" in uses
-- Three bytes of JSON and one of MessagePack may be a table.
local function encoded(...)
  local before = steps
  measure({ ... }, 0)
  -- Each byte may be escaped, and each number is written digit by digit.
  return (steps - before) * 448
end
-- A large map may have as many numbers as keys.
local function packed(text)
  if type(text) == 'string' and find(text, '[\222\223]') then
    local count = select(2, string.gsub(text, '[\202\203\206\207\210\211]', ''))
    odd_keys = odd_keys + count
    spend(count * odd_keys / 64)
  end
  -- Each text takes a byte more than its own; shorter ones than eight cannot all collide.
  return size(text) * (64 + 7 * {{ string_units }})
end
local function decoded(text)
  return size(text) * 40 + (type(text) == 'string' and select(2, string.gsub(text, '"', '')) or 0) * 32 * {{ string_units }}
end
json = { null = cjson.null, encode = counted(cjson.encode, encoded), decode = counted(cjson.decode, decoded) }
msgpack = { pack = counted(cmsgpack.pack, encoded), unpack = counted(cmsgpack.unpack, packed) }
--% endif
--% if "struct" in uses
structs = {}
structs.size = counted(struct.size, function(format) return size(format) * 3 end)
structs.pack = counted(struct.pack, function(format, ...) return size(format) * 32 + sizes(...) end)
structs.unpack = counted(struct.unpack, function(...) return sizes(...) * 4 + 64 end)
--% endif
local function stated(text) return size(text) + 64 * {{ string_units }} end
local library = { status_reply = counted(redis.status_reply, stated), error_reply = counted(redis.error_reply, stated), LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3 }
local run_command
--% if "listing" in uses
-- As on a connection: rounds of SCAN, each checked, and each key once.
local function list_keys(pattern)
  local found, seen, cursor = {}, {}, '0'
  repeat
    local reply = run_command('SCAN', cursor, 'MATCH', pattern, 'COUNT', 1000)
    if reply.err then return reply end
    cursor = reply[1]
    spend(2 * #reply[2])
    for at = 1, #reply[2] do
      local key = reply[2][at]
      if not seen[key] then seen[key], found[#found + 1] = true, key end
    end
  until cursor == '0'
  return found
end
--% endif
run_command = function(...)
  local words, count = { ... }, select('#', ...)
  spend({{ command_units }} + {{ word_units }} * count + sizes(...) / 40)
  if count == 0 then return { err = 'ERR Please specify at least one argument for this redis.call()' } end
  for at = 1, count do
    local word = words[at]
    if type(word) == 'number' then
      -- As the server writes it.
      spend({{ string_units }})
      local is_plain = word % 1 == 0 and word < 2 ^ 53 and word > -2 ^ 53
      words[at] = is_plain and string.format('%.0f', word + 0) or call('ECHO', word)
    elseif type(word) ~= 'string' then
      return { err = 'ERR Lua redis lib command arguments must be strings or integers' }
    end
  end
  local name = string.upper(words[1])
  words[1] = name
--% if "listing" in uses
  if name == {{ listing }} and count == 2 then return list_keys(words[2]) end
--% endif
  local before = ran
  local reply = perform(words)
  -- What the command did, and the bytes of its reply.
  if ran ~= before then spend(ran - before) end
  return reply
end
library.pcall = run_command
library.call = function(...)
  local reply = run_command(...)
  if type(reply) == 'table' and reply.err then
    raised[reply.err] = true
    error(reply, 0)
  end
  return reply
end
library.sha1hex = counted(redis.sha1hex, function(text) return size(text) * 4 + 320 end)
library.setresp = function(version)
  if version ~= 2 then error('a guard runs scripts under RESP2', 0) end
end
library.replicate_commands = function() return true end
-- The log of the server is not the caller's.
library.log = function() end
