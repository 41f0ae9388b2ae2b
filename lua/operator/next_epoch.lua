#!lua flags=allow-oom
--- next_epoch: raise the epoch of identities, after which leases of before can be expired.
---
--- KEYS[1]  layouts    hash    layouts of all states: so that only the home runs this
---
--- ARGV[1]  leases     string  prefix of the hashes of an identity's leases
--- ARGV[2]  epoch      string  the field of these hashes that is no shard's
--- ARGV[3]  shards     number  the most that the home of an identity knows
--- ARGV[4…] for each identity: its name, and the least epoch that it gets; none for all identities
---          that ever had a state
---
--- Replies  now_us, then for each identity: its name, its epoch, and an array of the tags of all
---          shards that may have a lease
local layouts_key, leases_prefix, epoch_field, max_shards = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local call, argv = redis.call, ARGV
local names, least = {}, {}
for i = 4, #argv, 2 do
  names[#names + 1] = argv[i]
  least[argv[i]] = tonumber(argv[i + 1])
end
if not names[1] then names = call('HKEYS', layouts_key) end
local time = call('TIME')
--% include "operator/include/raise_epoch.lua"
local reply = { string.format('%.0f', time[1] * 1000000 + time[2]) }
for _, name in ipairs(names) do
  local key, tags = leases_prefix .. name, {}
  local epoch = raise_epoch(key, least[name])
  -- A damaged record may have any number of fields.
  if call('HLEN', key) > max_shards + 1 then
    call('UNLINK', key)
    call('HSET', key, epoch_field, string.format('%.0f', epoch))
  end
  for _, field in ipairs(call('HKEYS', key)) do
    if field ~= epoch_field then tags[#tags + 1] = field end
  end
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = name, epoch, tags
end
return reply
