"""Scripts written by hand for SET alone: the least cost of each part of a guard's work.

They have one rule, no mask and no before-image, and denials without details. Their keys begin with
`bench:`; the audit stream starts empty, so nothing is trimmed in the first 100,000 events.
"""

from __future__ import annotations

SET_SCRIPT = "return redis.call('SET', KEYS[1], ARGV[1])"
"""The least script that runs a SET."""

EVENT_SCRIPT = """
redis.call('XADD', 'bench:events', 'MAXLEN', '~', '100000', '*', 'seq', '1', 'token', ARGV[2],
  'policy', 'b94d27b9934d 1,1w', 'correlation', ARGV[3], 'SET', KEYS[1])
return redis.call('SET', KEYS[1], ARGV[1])
"""
"""The least audited SET: an event of five fields, and the SET."""

SETS_SCRIPT = """
local words = { 'MSET' }
for i = 1, #KEYS do words[2 * i], words[2 * i + 1] = KEYS[i], ARGV[6 + i] end
return { redis.call(unpack(words)) }
"""
"""The least script for the arguments of a batch that is one run of SETs: three of its own, three of
the run, then the values."""

_JUDGED = """
local call, find, keys, argv = redis.call, string.find, KEYS, ARGV
local token_key = 'bench:token:' .. redis.sha1hex(argv[1])
local state, record = call('GET', 'bench:state'), call('GET', token_key)
if not record then
  local time = call('TIME')
  state = string.rep('\\0', 64)
  record = struct.pack('<ddBc12', (time[1] + 86400) * 1e6, 0, 0, 'x23456789abc')
  call('SET', 'bench:state', state)
  call('SET', token_key, record, 'PX', 8 * 86400000)
end
local generation, suspended, sequence, tat, ends, used, ends_writes, used_writes =
  struct.unpack('<dddddddd', state)
local expires, noted, revoked, id = struct.unpack('<ddBc12', record)
if generation ~= 0 or suspended ~= 0 or revoked ~= 0 then return redis.error_reply('stopped') end
local now = expires + 7 * 86400000000 - call('PTTL', token_key) * 1000
if expires <= now then return redis.error_reply('expired') end
if tat < now then tat = now end
if now >= ends then ends, used = now + 86400000000, 0 end
if now >= ends_writes then ends_writes, used_writes = now + 86400000000, 0 end
"""

GUARD_SCRIPT = (
    _JUDGED
    + """
local key = keys[1]
if argv[3] ~= 'SET' or argv[4] ~= key or keys[2] then return redis.error_reply('refused') end
if not find(key, '^agents:jobs:[^:]*:state$') then return redis.error_reply('key') end
if tat - now > 1e7 or used >= 1e15 or used_writes >= 1e15 then return redis.error_reply('limit') end
call('SETRANGE', 'bench:state', 16, struct.pack('<dddddd',
  sequence + 1, tat + 10, ends, used + 1, ends_writes, used_writes + 1))
call('XADD', 'bench:trail', '*', 'seq', sequence + 1, 'token', id,
  'policy', 'b94d27b9934d 1,1w', 'correlation', argv[2], 'SET', key)
if now % 7 == 0 then call('XTRIM', 'bench:trail', 'MAXLEN', '~', '100000') end
return call('SET', argv[4], argv[5])
"""
)
"""What agent-runner's guard does for a SET: state, token, clock, key, a rate, two budgets, event,
trimming."""

BATCH_SCRIPT = (
    _JUDGED
    + """
local count, words = #keys, { 'MSET' }
if argv[4] ~= '3*' .. count or argv[5] ~= 'SET' or argv[6] ~= '1' or argv[7 + count] then
  return redis.error_reply('refused')
end
if tat + (count - 1) * 10 - now > 1e7 or used + count > 1e15 or used_writes + count > 1e15 then
  return redis.error_reply('limit')
end
for n = 1, count do
  local key = keys[n]
  if not find(key, '^agents:jobs:[^:]*:state$') then return redis.error_reply('key') end
  words[2 * n], words[2 * n + 1] = key, argv[6 + n]
end
call('SETRANGE', 'bench:state', 16, struct.pack('<dddddd',
  sequence + 1, tat + count * 10, ends, used + count, ends_writes, used_writes + count))
call('XADD', 'bench:trail', '*', 'seq', sequence + 1, 'token', id, 'policy',
  'b94d27b9934d ' .. count .. ',' .. count .. 'w', 'correlation', argv[2],
  'SET*' .. count, cmsgpack.pack(keys))
if now % 7 == 0 then call('XTRIM', 'bench:trail', 'MAXLEN', '~', '100000') end
return { call(unpack(words)) }
"""
)
"""What agent-runner's batch guard does for a run of SETs."""
