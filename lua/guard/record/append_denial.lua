-- append_denial: append a denial to the stream of denials.
-- in:  command, detail, masked, value
-- out: kind, now_us, op
--
-- Denials of one kind within a minute share an entry: a hash counts them, and their number is
-- appended when the minute has passed. A kind is a token, a code and a reason, and for a denied key,
-- class or size also the command, which is then one of the guard's own; for a key also a digest of its
-- text up to the first `:`, as it may be masked. So a caller makes up no more than that and the digest
-- of a script (`EVAL:<SHA-1>`), and a token has few kinds. Commands run by pcall, because a full or
-- read-only server must not turn a denial into another error.
if not now_us then
  local time = call('TIME')
  now_us = time[1] * 1000000 + time[2]
end
local op = command
if #op > 64 then op = string.sub(op, 1, 64) end
-- Packed, as a number becomes text at twice the cost.
local minute = struct.pack('<I4', (now_us - now_us % 60000000) / 60000000)
local told_apart = (detail == 'key' or detail == 'class' or code == 'WORK_TOO_LARGE' or code == 'COMMAND_REFUSED' and find(op, ':', 1, true)) and op or ''
if detail == 'key' or detail == 'class' and key then told_apart = told_apart .. string.sub(redis.sha1hex(string.match(string.sub(detail == 'key' and value or key, 1, 64), '^[^:]*')), 1, 8) end
local kind = minute .. (token_id or '-') .. ':' .. code .. ':' .. told_apart .. ':' .. (reason or '')
if redis.pcall('HINCRBY', {{ names.repeats }}, kind, '1') == 1 then
  (function(code, reason, op, key, token_id, correlation, minute, kind)
    -- How many entries there are of this minute, and how many of them are the token's.
    local counted = redis.pcall('HMGET', {{ names.repeats }}, 'seq', minute, minute .. token_id)
    local seq, entries, of_token = tonumber(counted[1]) or 0, tonumber(counted[2]), tonumber(counted[3]) or 0
    if counted[1] and not entries then
--% include "record/append_repeats.lua"
    end
    entries = entries or 0
    local wider, folded = kind, {}
    if entries >= {{ max_kinds }} or of_token >= {{ token_kinds }} then
      wider, folded = minute .. '*:' .. code, { 'folded', 'tokens' }
    elseif of_token >= {{ token_kinds_by_command }} then
      wider, folded = minute .. token_id .. ':' .. code .. '::' .. reason, { 'folded', 'commands' }
    end
    if wider ~= kind then
      redis.pcall('HDEL', {{ names.repeats }}, kind)
      if redis.pcall('HINCRBY', {{ names.repeats }}, wider, '1') ~= 1 then return end
    end
    local of = string.sub(key or '', 1, {{ key_bytes }})
--% if masks
--% include "record/mask_key.lua"
    of = masked(of)
--% endif
    local id = redis.pcall('XADD', {{ names.denied }}, 'MAXLEN', '~', {{ text(denied_retain) }}, '*', 'seq', seq + 1, 'token', token_id, 'code', code, 'reason', reason, 'op', op, 'key', string.sub(of, 1, 256), 'correlation', {{ audit.correlation }}, 'policy', {{ policy }}, unpack(folded))
    if type(id) == 'string' then
      redis.pcall('HSET', {{ names.repeats }}, 'seq', seq + 1, minute, entries + 1, minute .. token_id, of_token + 1, 'id:' .. wider, id)
    end
  end)(code, reason or '', op, key, token_id or '-', correlation, minute, kind)
end
