-- 1 is until somebody resumes the identity, more the time at which it ends by itself, and less
-- than 0 a hold while prefixes are changed. The clock is read here, since only a token's record
-- would tell it, and no token is looked at yet.
local time = call('TIME')
now_us = time[1] * 1000000 + time[2]
if suspended > 1 and suspended <= now_us then
  -- pcall, since on a full or read-only server the next call only looks at the clock again.
  redis.pcall('SETRANGE', {{ names.state }}, 8, struct.pack('<d', 0))
else
  code, at_us = 'SUSPENDED', suspended
  -- pcall, since a fence of before may not let it be read; a hold has no reason of its own.
  local said = suspended > 0 and redis.pcall('HGET', {{ names.suspension }}, 'reason')
  if type(said) == 'string' and said ~= '' then detail, value = 'reason', said end
end
