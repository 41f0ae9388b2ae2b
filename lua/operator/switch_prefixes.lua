--- switch_prefixes: put other prefixes in force, with guards that know them, and hold all identities.
---
--- KEYS[1]   sealed                      hash    the prefixes in force
--- KEYS[2]   policy, layouts, control,           as they are named before the change:
---           operators, operators_seq            KEYS[2] to KEYS[6]
--- KEYS[7]   the same                            after the change: KEYS[7] to KEYS[11]
---
--- ARGV[1]   prefix      string  of the control keys after the change
--- ARGV[2]   vault       string  prefix of the keys of agents after the change
--- ARGV[3]   state       string  prefix of states after the change
--- ARGV[4]   denied      string  prefix of streams of denials after the change
--- ARGV[5]   repeats     string  prefix of their counters after the change
--- ARGV[6]   refused     string  prefix of the lists of circuit breakers after the change
--- ARGV[7]   suspension  string  prefix of records of suspensions after the change
--- ARGV[8]   guard       string  prefix of guard records after the change
--- ARGV[9]   staged      string  prefix of staged keys after the change
--- ARGV[10]  keep_ms     number  how long a state that was moved leaves a mark
--- ARGV[11]  old_state   string  prefix of states before the change
--- ARGV[12]  denied      string  as ARGV[4], before the change
--- ARGV[13]  repeats     string  as ARGV[5], before the change
--- ARGV[14]  refused     string  as ARGV[6], before the change
--- ARGV[15]  suspension  string  as ARGV[7], before the change
--- ARGV[16]  latest_us   number  a time from here on is corrupt
--- ARGV[17]  generation  string  of the policy that must be active
--- ARGV[18]  load        string  under whose id the new guard records are staged
--- ARGV[19…] for each identity: its name, and the stamp of its new guard; "" if it left the policy
---
--- Replies  1 | 0 it was done already | LEASH ACTIVATION_CONFLICT active=<generation>
---        | LEASH ACTIVATION_EXPIRED
---
--- A call is checked before this by the old guard, or after it by the new one, which denies it
--- until all keys have been moved: see end_switch. What old guards write goes along here; they
--- answer from now on that they are stale. The rest of the keys is written by new guards alone.
local call, argv = redis.call, ARGV
local sealed_key, latest_us = KEYS[1], tonumber(argv[16])
if call('HGET', sealed_key, 'phase') ~= 'planned' then return 0 end
local active = call('HGET', KEYS[2], 'generation') or '0'
if active ~= argv[17] then return redis.error_reply('LEASH ACTIVATION_CONFLICT active=' .. active) end
local staged = argv[9] .. argv[18] .. ':guard:'
-- A script that fails does not roll back. What is written below is fresh, or was made by keyleash.
for i = 19, #argv, 2 do
  if argv[i + 1] ~= '' and call('EXISTS', staged .. argv[i]) == 0 then
    return redis.error_reply('LEASH ACTIVATION_EXPIRED')
  end
end

local function take(from, to)
  if call('EXISTS', from) == 0 then return false end
  call('RENAME', from, to)
  return true
end
for i = 19, #argv, 2 do
  local name, stamp = argv[i], argv[i + 1]
  local from, to = argv[11] .. name, argv[3] .. name
  -- An identity whose state was lost stays stopped.
  if take(from, to) and stamp ~= '' then
    local flag = call('GETRANGE', to, 8, 15)
    -- A fenced agent may write any bytes there. What is too short is no state, and stays so; what is
    -- no time has no end. Otherwise the agent would not be held.
    if #flag == 8 then
      local suspended = struct.unpack('<d', flag)
      if not (suspended >= 0 and suspended < latest_us) then suspended = 1 end
      -- Below 0: held, whether suspended or not.
      call('SETRANGE', to, 0, stamp .. struct.pack('<d', -1 - suspended))
    end
    -- Too short for a state, so every old guard takes it for another's.
    call('SET', from, '\0', 'PX', argv[10])
  end
  take(argv[12] .. name, argv[4] .. name)
  take(argv[13] .. name, argv[5] .. name)
  take(argv[14] .. name, argv[6] .. name)
  take(argv[15] .. name, argv[7] .. name)
  if stamp ~= '' then call('RENAME', staged .. name, argv[8] .. name) end
end
for i = 2, 6 do take(KEYS[i], KEYS[i + 5]) end
call('HSET', KEYS[7], 'generation', string.format('%.0f', active + 1))
call('HSET', sealed_key, 'phase', 'switched', 'control', argv[1], 'vault', argv[2])
return 1
