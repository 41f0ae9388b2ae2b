-- raise_epoch: raise the epoch of an identity: what was granted before is void.
-- in:  call, epoch_field, time
-- out: raise_epoch
local function raise_epoch(leases)
  local epoch = redis.pcall('HINCRBY', leases, epoch_field, 1)
  -- A fenced agent may write any text there.
  if type(epoch) ~= 'number' or epoch < 1 or epoch >= 2 ^ 53 then
    epoch = time[1] * 1000000 + time[2]
    call('HSET', leases, epoch_field, string.format('%.0f', epoch))
  end
  return epoch
end
