-- The first refusal of another minute, or of one more kind than are kept apart, writes down how
-- often those before it came.
local held = redis.pcall('HGET', {{ names.repeats }}, 'minute')
if held and (held ~= minute or redis.pcall('HLEN', {{ names.repeats }}) > {{ 2 * max_kinds }}) then
  local counts, ids = {}, redis.pcall('HGETALL', {{ names.repeats }})
  for i = 1, #ids, 2 do counts[ids[i]] = ids[i + 1] end
  for name, first_id in pairs(counts) do
    local count = counts[string.sub(name, 4)]
    if find(name, '^id:') and count and count ~= '1' then
      redis.pcall('XADD', {{ names.denied }}, '*', 'of', first_id, 'repeats', count)
    end
  end
  redis.pcall('DEL', {{ names.repeats }})
  redis.pcall('HSET', {{ names.repeats }}, 'seq', seq, alike, 1)
end
