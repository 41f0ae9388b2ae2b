--- switch_prefixes: put other prefixes in force, with guards that know them, and hold everybody.
---
--- KEYS     none
---
--- ARGV[1]  generation  string  of the policy that must be active
--- ARGV[2]  load        string  under whose id the new guard records are staged
--- ARGV[3…] for each identity: its name, and the stamp of its new guard; "" if it left the policy
---
--- Replies  1 | 0 it was done already | LEASH ACTIVATION_CONFLICT active=<generation>
---        | LEASH ACTIVATION_EXPIRED
---
--- A call is judged before this by the old guard, or after it by the new one, and that refuses it
--- until all keys have been moved: see end_switch. What old guards write goes along here; they
--- answer from now on that they are stale. The rest of the keys is written by new guards alone.
local call, argv = redis.call, ARGV
if call('HGET', {{ names.sealed }}, 'phase') ~= 'planned' then return 0 end
local active = call('HGET', {{ old_names.policy }}, 'generation') or '0'
if active ~= argv[1] then return redis.error_reply('LEASH ACTIVATION_CONFLICT active=' .. active) end
local staged = {{ names.staged_prefix }} .. argv[2] .. ':guard:'
-- A script that fails does not roll back. What is written below is fresh, or was made by keyleash.
for i = 3, #argv, 2 do
  if argv[i + 1] ~= '' and call('EXISTS', staged .. argv[i]) == 0 then
    return redis.error_reply('LEASH ACTIVATION_EXPIRED')
  end
end

local function take(from, to)
  if call('EXISTS', from) == 0 then return false end
  call('RENAME', from, to)
  return true
end
for i = 3, #argv, 2 do
  local name, stamp = argv[i], argv[i + 1]
  local from, to = {{ old_names.state_prefix }} .. name, {{ names.state_prefix }} .. name
  -- An identity whose state was lost stays stopped.
  if take(from, to) and stamp ~= '' then
    local flag = call('GETRANGE', to, 8, 15)
    -- A fenced agent may write any bytes there. What is too short is no state, and stays so; what is
    -- no time has no end. Otherwise the agent would not be held.
    if #flag == 8 then
      local suspended = struct.unpack('<d', flag)
      if not (suspended >= 0 and suspended < {{ latest_us }}) then suspended = 1 end
      -- Below 0: held, whether suspended or not.
      call('SETRANGE', to, 0, stamp .. struct.pack('<d', -1 - suspended))
    end
    -- Too short for a state, so every old guard takes it for another's.
    call('SET', from, '\0', 'PX', {{ removed_keep_ms }})
  end
  take({{ old_names.denied_prefix }} .. name, {{ names.denied_prefix }} .. name)
  take({{ old_names.repeats_prefix }} .. name, {{ names.repeats_prefix }} .. name)
  take({{ old_names.refused_prefix }} .. name, {{ names.refused_prefix }} .. name)
  take({{ old_names.suspension_prefix }} .. name, {{ names.suspension_prefix }} .. name)
  if stamp ~= '' then call('RENAME', staged .. name, {{ names.guard_prefix }} .. name) end
end
take({{ old_names.policy }}, {{ names.policy }})
take({{ old_names.layouts }}, {{ names.layouts }})
take({{ old_names.control }}, {{ names.control }})
take({{ old_names.operators }}, {{ names.operators }})
take({{ old_names.operators_seq }}, {{ names.operators_seq }})
call('HSET', {{ names.policy }}, 'generation', string.format('%.0f', active + 1))
call('HSET', {{ names.sealed }}, 'phase', 'switched', 'control', {{ names.prefix }}, 'vault', {{ vault }})
return 1
