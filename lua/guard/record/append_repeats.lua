-- append_repeats: append how often each denial of the last minute came, in one entry, and empty the
-- hash.
-- in:  seq, kind
-- out: counts, fields, more
--
-- The first denial of a minute does this. A hash larger than guards make it is not read.
local counts, repeats, more = {}, {}, 0
local fields = redis.pcall('HLEN', {{ names.repeats }}) <= {{ 4 * max_kinds }} and redis.pcall('HGETALL', {{ names.repeats }}) or {}
for i = 1, #fields, 2 do counts[fields[i]] = fields[i + 1] end
for i = 1, #fields, 2 do
  local count = find(fields[i], '^id:') and counts[string.sub(fields[i], 4)]
  local times = tonumber(count)
  if times and times > 1 then
    local last = #repeats
    repeats[last + 1], repeats[last + 2], repeats[last + 3], repeats[last + 4] = 'of', fields[i + 1], 'repeats', count
    more = more + times - 1
  end
end
if repeats[1] then redis.pcall('XADD', {{ names.denied }}, '*', unpack(repeats)) end
redis.pcall('DEL', {{ names.repeats }})
redis.pcall('HSET', {{ names.repeats }}, 'seq', seq, 'folded', (tonumber(counts.folded) or 0) + more, kind, 1)
--% if idempotency
if counts.replays then redis.pcall('HSET', {{ names.repeats }}, 'replays', tonumber(counts.replays) or 0) end
--% endif
