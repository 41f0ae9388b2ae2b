-- The refusal's line, and its entry in the stream of denials.
local function escaped(text)
  return (string.gsub(string.sub(text, 1, 128), '[^%w:._/@+-]', function(character)
    return string.format('%%%02X', string.byte(character))
  end))
end
local line = 'LEASH ' .. code
if detail then line = line .. ' ' .. detail .. '=' .. escaped(value) end
if code == 'CLASS_NOT_GRANTED' then
  line = line .. ' command=' .. escaped(command)
  if key then line = line .. ' key=' .. escaped(key) end
elseif code == 'RATE_LIMITED' then
  line = line .. ' retry_after_ms=' .. string.format('%.0f', math.ceil((at_us - now_us) / 1000))
elseif code == 'BUDGET_EXHAUSTED' then
  line = line .. ' resets_at_ms=' .. string.format('%.0f', math.ceil(at_us / 1000))
end
--% if batch
if item then line = line .. ' item=' .. item end
--% endif
-- A stale guard is an old wrapper's, on its way to the new one; without a state there is no identity.
-- pcall, since a full or read-only server must not turn a refusal into another error.
if code ~= 'POLICY_STALE' and code ~= 'NOT_ACTIVE' then
  redis.pcall('XADD', {{ names.denied }}, 'MAXLEN', '~', {{ text(denied_retain) }}, '*', 'token', token_id or '-', 'code', code, 'op', string.sub(command, 1, 64), 'key', string.sub(key or '', 1, 256), 'correlation', correlation, 'policy', {{ policy }})
end
