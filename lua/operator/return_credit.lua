#!lua flags=allow-oom
--- return_credit: give units of budgets that shards have not used back to one identity.
---
--- KEYS[1]  layouts   hash    layouts of all states
--- KEYS[2]  control   stream  operator actions
---
--- ARGV[1]  leases    string  prefix of the hashes of leases
--- ARGV[2]  field     string  the field of these hashes that is no shard's
--- ARGV[3]  actor     string
--- ARGV[4]  identity  string
--- ARGV[5]  account   string  the identity, or `<identity>:<token id>` for budgets per token
--- ARGV[6]  layout    JSON    of the identity's state, as the caller read it
--- ARGV[7]  epoch     string  of the identity, as the caller read it before units were taken
--- ARGV[8]  budgets   packed  of each budget its place among the leased limits, and in its count
--- ARGV[9…] for each budget: the key of its count; then for each shard: its tag, and the reply of
---           collect_credit.lua
---
--- Replies  for each budget the units that were given back | 0 the layout or the epoch has changed:
---          nothing was changed
---
--- A reset of limits begins an epoch: units that were taken before it were charged to other counts.
--- The entry of the shard notes the reply by its seq, so that it counts once, and not if the shard
--- was granted units since.
local layouts_key, control_key = KEYS[1], KEYS[2]
local leases = ARGV[1] .. ARGV[5]
local call, argv, pack, unpack_struct = redis.call, ARGV, struct.pack, struct.unpack
if call('HGET', layouts_key, argv[4]) ~= argv[6] then return 0 end
if call('HGET', ARGV[1] .. argv[4], argv[2]) ~= argv[7] then return 0 end
local budgets = #argv[8] / 8
local returned, total = {}, 0
for n = 1, budgets do returned[n] = 0 end
for i = 9 + budgets, #argv, 2 + 2 * budgets do
  local tag, seq = argv[i], tonumber(argv[i + 1])
  local entry = call('HGET', leases, tag)
  if entry and #entry >= {{ entry_bytes }} and unpack_struct('<d', entry) < seq then
    for n = 1, budgets do
      local place, offset = unpack_struct('<II', argv[8], 8 * n - 7)
      local window_us, credit = tonumber(argv[i + 2 * n]), tonumber(argv[i + 2 * n + 1])
      local at = {{ entry_bytes }} + {{ leased_bytes }} * place
      local count = argv[8 + n]
      local packed = call('GETRANGE', count, offset, offset + 15)
      local ends_us, used = 0, 0
      if #packed == 16 then ends_us, used = unpack_struct('<dd', packed) end
      if ends_us > 0 and #entry >= at + {{ leased_bytes }} and window_us == ends_us and unpack_struct('<d', entry, at + 9) == ends_us then
        -- No more than this home knows of: it may have forgotten grants.
        local have = unpack_struct('<d', entry, at + 17)
        local unused = math.max(0, math.min(credit, have, used))
        call('SETRANGE', count, offset + 8, pack('<d', used - unused))
        entry = string.sub(entry, 1, at) .. pack('<ddd', 0, window_us, have - unused) .. string.sub(entry, at + 25)
        returned[n], total = returned[n] + unused, total + unused
      end
    end
    call('HSET', leases, tag, pack('<d', seq) .. string.sub(entry, 9))
  end
end
if total ~= 0 then
  call('XADD', control_key, '*', 'event', 'collect-credit', 'actor', argv[3], 'identity', argv[4],
    'units', string.format('%.0f', total))
end
for n = 1, budgets do returned[n] = string.format('%.0f', returned[n]) end
return returned
