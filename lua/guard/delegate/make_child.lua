-- make_child: store a child token, and what operators list about it.
-- in:  child, child_id, child_key, ends_ms, labels, children_key, now_us, record
-- out: none
--
-- Commands on keys that only list children run by pcall: a wrong type there is no error of the call.
local id, ends = child_id, string.format('%.0f', ends_ms)
local now, over_ms = string.format('%.0f', now_us / 1000), string.format('%.0f', now_us / 1000 - {{ keep_record_us / 1000 }})
call('SET', child_key, child, 'PXAT', string.format('%.0f', ends_ms + {{ keep_record_us / 1000 }}))
local facts = { digest = string.sub(child_key, -40), issued_ms = math.floor(now_us / 1000), meta = labels }
redis.pcall('HSET', {{ names.delegated }}, id, cjson.encode(facts))
redis.pcall('ZADD', {{ names.delegations }}, ends, id)
redis.pcall('ZREMRANGEBYSCORE', children_key, '-inf', now)
redis.pcall('ZADD', children_key, ends, id)
redis.pcall('PEXPIREAT', children_key, string.format('%.0f', struct.unpack('<d', record) / 1000))
-- No child of now lives longer; so these do not stay when nothing is delegated any more.
local longest = string.format('%.0f', now_us / 1000 + {{ delegate.max_ttl_s * 1000 + keep_record_us / 1000 }})
redis.pcall('PEXPIREAT', {{ names.delegated }}, longest)
redis.pcall('PEXPIREAT', {{ names.delegations }}, longest)
-- Each delegation removes more than one entry whose record is gone, so they never add up.
local over = redis.pcall('ZRANGEBYSCORE', {{ names.delegations }}, '-inf', over_ms, 'LIMIT', '0', '20')
if over[1] then
  redis.pcall('HDEL', {{ names.delegated }}, unpack(over))
  redis.pcall('ZREM', {{ names.delegations }}, unpack(over))
end
