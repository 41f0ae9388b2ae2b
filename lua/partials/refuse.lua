-- The refusal's line, and its entry in the stream of denials; a function as in apply_rule.
local line = (function(code, detail, value, reason, command, key, at_us, now_us, token_id, correlation)
  local function escaped(text)
    text = string.sub(text, 1, 128)
    if find(text, '^[%w:._/@+-]*$') then return text end
    return (string.gsub(text, '[^%w:._/@+-]', function(character)
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
  if code ~= 'POLICY_STALE' and code ~= 'NOT_ACTIVE' then
    if detail == 'class' or detail == 'limit' then reason = value end
--% include "partials/record_refusal.lua"
  end
  return line
end)(code, detail, value, reason, command, key, at_us, now_us, token_id, correlation)
