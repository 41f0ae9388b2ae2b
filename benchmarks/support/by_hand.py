"""Scripts written by hand for SET alone: the least cost of each part of a guard's work.

They have one rule, no mask and no before-image, and denials without details. Their keys begin with
`bench:`; the audit stream starts empty, so nothing is trimmed in the first 100,000 events.
"""

from __future__ import annotations

SET_SCRIPT = "return redis.call('SET', KEYS[1], ARGV[1])"
"""The least script that runs a SET."""

EVENT_SCRIPT = """
redis.call('XADD', 'bench:events', 'MAXLEN', '~', '100000', '*', 'token', ARGV[2], 'op', 'SET',
  'key', KEYS[1], 'correlation', ARGV[3], 'policy', 'b94d27b9934d', 'actor', 'agent-runner')
return redis.call('SET', KEYS[1], ARGV[1])
"""
"""The least audited SET: an event of six fields, and the SET."""

SETS_SCRIPT = """
local set, replies = redis.call, {}
for i = 1, #KEYS do replies[i] = set('SET', KEYS[i], ARGV[3 + 4 * i]) end
return replies
"""
"""The least script for the arguments of a batch: three of its own, then for each SET their number,
`SET`, key and value."""

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
call('XADD', 'bench:trail', '*', 'seq', sequence + 1, 'token', id, 'op', 'SET',
  'key', key, 'correlation', argv[2], 'policy', 'b94d27b9934d 1,1w')
if now % 7 == 0 then call('XTRIM', 'bench:trail', 'MAXLEN', '~', '100000') end
return call('SET', argv[4], argv[5])
"""
)
"""What agent-runner's guard does for a SET: state, token, clock, key, a rate, two budgets, event,
trimming."""

BATCH_SCRIPT = (
    _JUDGED
    + """
local event = { 'XADD', 'bench:trail', '*', 'seq', sequence + 1, 'token', id, 'policy', '',
  'correlation', argv[2] }
local fields, count, at = #event, #keys, 4
for n = 1, count do
  local key = keys[n]
  if argv[at] ~= '3' or argv[at + 1] ~= 'SET' or argv[at + 2] ~= key then
    return redis.error_reply('refused')
  end
  if not find(key, '^agents:jobs:[^:]*:state$') then return redis.error_reply('key') end
  if tat - now > 1e7 or used >= 1e15 or used_writes >= 1e15 then
    return redis.error_reply('limit')
  end
  tat, used, used_writes = tat + 10, used + 1, used_writes + 1
  event[fields + 1], event[fields + 2] = 'SET', key
  fields, at = fields + 2, at + 4
end
if argv[at] then return redis.error_reply('refused') end
call('SETRANGE', 'bench:state', 16, struct.pack('<dddddd',
  sequence + 1, tat, ends, used, ends_writes, used_writes))
event[9] = 'b94d27b9934d ' .. count .. ',' .. count .. 'w'
call(unpack(event))
if now % 7 == 0 then call('XTRIM', 'bench:trail', 'MAXLEN', '~', '100000') end
local replies = {}
for n = 1, count do replies[n] = call('SET', unpack(argv, 4 * n + 2, 4 * n + 3)) end
return replies
"""
)
"""What agent-runner's batch guard does for SETs: all of that once, then for each key and limits."""
