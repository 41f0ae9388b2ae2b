-- raise_epoch: raise the epoch of an identity, perhaps to a least one: what was granted before is void.
-- in:  call, epoch_field, time
-- out: raise_epoch
local function raise_epoch(leases, least)
  local now_us = time[1] * 1000000 + time[2]
  local raised = redis.pcall('HINCRBY', leases, epoch_field, 1)
  local epoch = raised
  -- The first is the time: a home that lost its data must exceed the epochs that shards know.
  if type(epoch) ~= 'number' or epoch <= 1 or epoch >= 2 ^ 53 then epoch = now_us end
  if least and least > epoch and least < 2 ^ 53 then epoch = least end
  if epoch ~= raised then call('HSET', leases, epoch_field, string.format('%.0f', epoch)) end
  return epoch
end
