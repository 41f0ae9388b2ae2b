-- A refusal's entry in the stream of denials. What is refused alike within a minute is one entry:
-- its repeats are counted in a hash, and their number is appended when the minute is over.
-- pcall, since a full or read-only server must not turn a refusal into another error.
if not now_us then
  local time = call('TIME')
  now_us = time[1] * 1000000 + time[2]
end
local op = command
if #op > 64 then op = string.sub(op, 1, 64) end
-- Packed, as a number becomes text at twice the cost.
local minute = struct.pack('<I4', (now_us - now_us % 60000000) / 60000000)
local alike = minute .. (token_id or '-') .. ':' .. code .. ':' .. op .. ':' .. (reason or '')
if redis.pcall('HINCRBY', {{ names.repeats }}, alike, '1') == 1 then
  (function(code, reason, op, key, token_id, correlation, minute, alike)
    local of = key or ''
--% if masks
--% include "partials/masked.lua"
    of = masked(of)
--% endif
    local seq = redis.pcall('HINCRBY', {{ names.repeats }}, 'seq', 1)
    local id = redis.pcall('XADD', {{ names.denied }}, 'MAXLEN', '~', {{ text(denied_retain) }}, '*', 'seq', seq, 'token', token_id, 'code', code, 'reason', reason, 'op', op, 'key', string.sub(of, 1, 256), 'correlation', correlation, 'policy', {{ policy }})
    if type(id) == 'string' then
--% include "partials/close_minute.lua"
      redis.pcall('HSET', {{ names.repeats }}, 'minute', minute, 'id:' .. alike, id)
    end
  end)(code, reason or '', op, key, token_id or '-', correlation, minute, alike)
end
