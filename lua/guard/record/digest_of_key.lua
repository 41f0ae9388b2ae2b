-- digest_of_key: return the SHA-1 in hex of what a key holds, independent of how the server stores
-- it.
-- in:  none
-- out: digest_of
--
-- The order of a hash table differs between servers and after a restart. Returns 'absent', or
-- 'large' if the key takes more than `bound` bytes or has many elements, unless that is nil. For a key that was
-- restored, `dump` is the payload it came from: a server may dump it in another form.
local function digest_of(key, bound, dump)
  local kind = call('TYPE', key).ok
  if kind == 'none' then return 'absent' end
  if kind == 'string' then
    if bound and call('STRLEN', key) > bound then return 'large' end
    local value = call('GET', key)
--% include "record/strip_cached_count.lua"
    return redis.sha1hex(value)
  end
  if bound then
    local bytes, size = call('MEMORY', 'USAGE', key), ({ hash = 'HLEN', set = 'SCARD', zset = 'ZCARD' })[kind]
    -- Elements that collide take the square of their number.
    if bytes > bound or bytes > 65536 and size and call(size, key) > 5000 then return 'large' end
  end
  -- One that shrank is dumped in another form than the same one restored.
  if kind == 'zset' then
    local held = call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #held do held[i] = #held[i] .. ':' .. held[i] .. ',' end
    return redis.sha1hex(kind .. table.concat(held))
  end
  dump = dump or call('DUMP', key)
  -- Its last bytes name the version of the server.
  if kind ~= 'hash' and kind ~= 'set' then return redis.sha1hex(string.sub(dump, 1, -11)) end
  local held = call(kind == 'hash' and 'HGETALL' or 'SMEMBERS', key)
  local width, parts = kind == 'hash' and 2 or 1, {}
  for i = 1, #held, width do
    local part = #held[i] .. ':' .. held[i] .. ','
    if width == 2 then
      part = part .. #held[i + 1] .. ':' .. held[i + 1] .. ','
      -- Only the types of dumps that came later know fields that expire; the type stays when none
      -- does.
      if string.byte(dump) >= 22 then
        local expires = call('HPEXPIRETIME', key, 'FIELDS', '1', held[i])[1]
        if expires > 0 then part = part .. string.format('%.0f', expires) end
      end
    end
    -- Sorted are digests, since Lua sorts text by the server's locale.
    parts[#parts + 1] = redis.sha1hex(part)
  end
  table.sort(parts)
  return redis.sha1hex(kind .. table.concat(parts))
end
