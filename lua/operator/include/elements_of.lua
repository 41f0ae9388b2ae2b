-- elements_of: return the elements of a key, or the beginnings of its first ones.
-- in:  short_elements, short_bytes, max_bytes
-- out: elements_of
--
-- A string's bytes; elements; fields with values and expiries; members with scores; ids with words.
local function elements_of(key, kind, is_whole)
  local count = is_whole and 1000000000 or short_elements
  local bytes = is_whole and -1 or short_bytes
  local found = {}
  local function add(word) found[#found + 1] = string.sub(word, 1, bytes) end
  if kind == 'string' then
    return { call('GETRANGE', key, 0, is_whole and -1 or bytes - 1) }
  elseif kind == 'list' then
    for _, word in ipairs(call('LRANGE', key, 0, count - 1)) do add(word) end
  elseif kind == 'zset' then
    for _, word in ipairs(call('ZRANGE', key, 0, count - 1, 'WITHSCORES')) do add(word) end
  elseif kind == 'stream' then
    for _, entry in ipairs(call('XRANGE', key, '-', '+', 'COUNT', count)) do
      local words = {}
      for i, word in ipairs(entry[2]) do words[i] = string.sub(word, 1, bytes) end
      found[#found + 1], found[#found + 2] = entry[1], words
    end
  elseif kind == 'ReJSON-RL' and call('MEMORY', 'USAGE', key) <= max_bytes then
    -- The user may lack the command.
    local text = redis.pcall('JSON.GET', key)
    if type(text) == 'string' then add(text) end
  elseif kind == 'set' then
    local members = is_whole and call('SMEMBERS', key) or call('SSCAN', key, 0, 'COUNT', count)[2]
    for i = 1, math.min(#members, count) do add(members[i]) end
  elseif kind == 'hash' then
    local words = is_whole and call('HGETALL', key) or call('HSCAN', key, 0, 'COUNT', count)[2]
    for i = 1, math.min(#words, 2 * count), 2 do
      add(words[i])
      add(words[i + 1])
      -- Not every server has expiries of fields.
      local expires = redis.pcall('HPEXPIRETIME', key, 'FIELDS', 1, words[i])
      found[#found + 1] = string.format('%.0f', expires[1] or -1)
    end
  end
  return found
end
