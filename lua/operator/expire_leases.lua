#!lua flags=allow-oom
--- expire_leases: end the leases of identities at one shard; the next call of each asks the home.
---
--- KEYS     none: of a slot that moves, keys that are still here can be changed
---
--- ARGV[1]  state       string  prefix of states at the shard
--- ARGV[2]  suspension  string  prefix of records of suspensions
--- ARGV[3]  refused     string  prefix of the lists of a circuit breaker
--- ARGV[4]  resume      string  "1" to end suspensions by the circuit breaker of the shard; else ""
--- ARGV[5]  limits      packed  the places of leased limits whose credit is dropped
--- ARGV[6]  tokens      string  "1" to drop the credit of all tokens; else ""
--- ARGV[7]  existing    string  "1" to leave identities out that have no state; else ""
--- ARGV[8…] for each identity: its name and its epoch
---
--- Replies  for each identity whose state knows a later epoch: its name, and that epoch
---
--- Credit stays otherwise: it was charged at the home. A shard without a state gets one, because a
--- voucher on its way must not find a shard that knows no epoch.
local state_prefix, suspension_prefix, refused_prefix = ARGV[1], ARGV[2], ARGV[3]
local resume, limits, tokens, existing = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local call, argv, pack, unpack_struct = redis.call, ARGV, struct.pack, struct.unpack
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local later = {}
local function expire(name, epoch)
  local key = state_prefix .. name
  local state = call('GET', key)
  if not state and existing == '1' then return end
  -- A state begins with its own time as seq, so that no number of an earlier life is used twice.
  local head = state and #state >= {{ shard_bytes }} and string.sub(state, 1, {{ shard_bytes }})
    or pack('<dddddddd', 0, 0, epoch, now_us, 0, now_us, 0, now_us)
  local layout, suspended, min_epoch, seq, asked_us, born_us, rest = unpack_struct('<ddddddc16', head)
  local resumes = resume == '1' and suspended ~= 0
  if resumes then suspended = 0 end
  -- A grant that is on its way may be of before.
  if limits ~= '' or tokens == '1' then asked_us = 0 end
  -- The credit of a token is of one life of the state.
  if tokens == '1' then born_us = now_us end
  -- A damaged record may have any number.
  if min_epoch > epoch and min_epoch < 2 ^ 53 then
    later[#later + 1], later[#later + 2] = name, string.format('%.0f', min_epoch)
  else
    min_epoch = epoch
  end
  call('SETRANGE', key, 0, pack('<ddddddc16', layout, suspended, min_epoch, seq, asked_us, born_us, rest))
  -- Before its first grant a state ends by itself, and its epoch with it.
  call('PERSIST', key)
  -- In a moving slot only keys that are still here can be deleted: nothing else may fail then.
  if resumes then call('DEL', suspension_prefix .. name, refused_prefix .. name)
  -- Without a suspension, what was counted is forgotten as far as it is here.
  elseif resume == '1' then redis.pcall('DEL', refused_prefix .. name) end
  for at = 1, #limits, 4 do
    local place = {{ shard_bytes }} + 8 * unpack_struct('<I', limits, at)
    if state and #state >= place + 8 then call('SETRANGE', key, place, pack('<d', 0)) end
  end
end
for i = 8, #argv, 2 do expire(argv[i], tonumber(argv[i + 1])) end
return later
