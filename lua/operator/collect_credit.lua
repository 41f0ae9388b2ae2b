#!lua flags=allow-oom
--- collect_credit: take the unused units of budgets from one identity, or one token, at a shard.
---
--- KEYS     none: of a slot that moves, keys that are still here can be changed
---
--- ARGV[1]  state     string  prefix of states at the shard
--- ARGV[2]  identity  string
--- ARGV[3]  account   string  the identity, or `<identity>:<token id>` for budgets per token
--- ARGV[4]  layout    number  of the leased limits
--- ARGV[5]  limits    packed  the places of budgets among these
---
--- Replies  seq of the grant that the shard waited for, then for each budget the end of its window
---          and the units that were taken | an empty array if there is no state, or one of other
---          limits
---
--- The shard waits for a later grant from now on, so one that is on its way credits nothing.
local own_key, key = ARGV[1] .. ARGV[2], ARGV[1] .. ARGV[3]
local known_layout, limits = tonumber(ARGV[4]), ARGV[5]
local call, pack, unpack_struct = redis.call, struct.pack, struct.unpack
local own, state = call('GET', own_key), call('GET', key)
if not (own and state) or math.min(#own, #state) < {{ shard_bytes }} then return {} end
-- Units of a token from an earlier life of the state are dropped.
local born_at = {{ born_at }}
if string.sub(own, born_at + 1, born_at + 8) ~= string.sub(state, born_at + 1, born_at + 8) then return {} end
local count = (#state - {{ shard_bytes }}) / {{ leased_bytes }}
local layout, _, _, seq = unpack_struct('<dddd', state)
-- A damaged record may have any number.
if layout ~= known_layout or not (seq >= 0 and seq < 2 ^ 53) then return {} end
local reply = { string.format('%.0f', seq) }
call('SETRANGE', key, {{ seq_at }}, pack('<dd', seq + 1, 0))
for at = 1, #limits, 4 do
  local place = unpack_struct('<I', limits, at)
  local credit_at = {{ shard_bytes }} + 8 * place
  local window_at = {{ shard_bytes }} + {{ pair_bytes }} * (count + place)
  local credit = unpack_struct('<d', state, credit_at + 1)
  local window_us, have = unpack_struct('<dd', state, window_at + 1)
  if not (have >= 0 and have < 2 ^ 53 and window_us >= 0 and window_us < 2 ^ 53) then return {} end
  if credit > 0 and credit <= have then
    call('SETRANGE', key, credit_at, pack('<d', 0))
    call('SETRANGE', key, window_at + 8, pack('<d', have - credit))
  else
    credit = 0
  end
  reply[#reply + 1], reply[#reply + 2] = string.format('%.0f', window_us), string.format('%.0f', credit)
end
return reply
