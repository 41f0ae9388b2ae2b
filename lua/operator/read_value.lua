--- read_value: return what a key or a before-image holds.
---
--- KEYS     none
---
--- ARGV[1]  undo       string  prefix of the keys that before-images become for a moment
--- ARGV[2]  max_bytes  number  a larger value is not read
--- ARGV[3]  elements   number  of a short extent
--- ARGV[4]  bytes      number  of each of these
--- ARGV[5]  source  string  "key", "value" or "image"
--- ARGV[6]  value   string  the key's name on the server; a string's bytes; or what DUMP returned
--- ARGV[7]  extent  string  "whole", or "short" for the first elements
---
--- Replies  type as TYPE has it, "none" if there is nothing; digest as digest_of has it, "large"
---          if it takes too many bytes to be read; expiry in Unix milliseconds or "-1"; bytes that
---          it takes; how many elements it has; the elements as elements_of has them, none if
---          the whole is asked for and it is large
---        | LEASH IMAGE_UNREADABLE as the server cannot restore it
---
--- A before-image becomes a key while this runs, which neither replicas nor the log see.
local undo_prefix, max_bytes = ARGV[1], tonumber(ARGV[2])
local short_elements, short_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local call = redis.call
--% include "record/digest_of_key.lua"
--% include "operator/include/elements_of.lua"
local key, is_whole = ARGV[6], ARGV[7] == 'whole'
local is_image = ARGV[5] ~= 'key'
if is_image then
  key = undo_prefix .. 'image'
  redis.set_repl(redis.REPL_NONE)
end
if ARGV[5] == 'value' then
  call('SET', key, ARGV[6])
elseif is_image then
  local restored = redis.pcall('RESTORE', key, 0, ARGV[6], 'REPLACE')
  if restored.err then
    if not string.find(restored.err, '^ERR ') then return restored end
    return redis.error_reply('LEASH IMAGE_UNREADABLE')
  end
end
local lengths = { string = 'STRLEN', list = 'LLEN', hash = 'HLEN', set = 'SCARD', zset = 'ZCARD', stream = 'XLEN' }
local dump = ARGV[5] == 'image' and ARGV[6] or nil
local kind, digest = call('TYPE', key).ok, digest_of(key, max_bytes, dump)
if digest == 'absent' then kind = 'none' end
local found = {
  kind,
  digest,
  string.format('%.0f', call('PEXPIRETIME', key)),
  call('MEMORY', 'USAGE', key) or 0,
  lengths[kind] and call(lengths[kind], key) or 0,
  is_whole and digest == 'large' and {} or elements_of(key, kind, is_whole),
}
if is_image then call('DEL', key) end
return found
