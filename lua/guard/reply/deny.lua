-- deny: write the line of a denial and append it to the stream of denials.
-- in:  code, detail, value, amount, at_us, now_us, command, key, reason, is_check
-- out: line, reason
--
-- Rarely needed code is in functions, as in dispatch_rule, made only where they are called.
local line = 'LEASH ' .. code
if code == 'CLASS_NOT_GRANTED' or detail and (#value > 128 or not find(value, '^[%w:._/@+-]*$')) then
  line = (function(line, code, detail, value, command, key)
    local function escaped(text)
      return (string.gsub(string.sub(text, 1, 128), '[^%w:._/@+-]', function(character)
        return string.format('%%%02X', string.byte(character))
      end))
    end
    line = line .. ' ' .. detail .. '=' .. escaped(value)
    if code ~= 'CLASS_NOT_GRANTED' then return line end
    line = line .. ' command=' .. escaped(command)
    return key and line .. ' key=' .. escaped(key) or line
  end)(line, code, detail, value, command, key)
elseif detail then
  line = line .. ' ' .. detail .. '=' .. value
end
if amount then line = line .. amount end
if code == 'RATE_LIMITED' then
  line = line .. ' retry_after_ms=' .. string.format('%.0f', math.ceil((at_us - now_us) / 1000))
elseif code == 'SUSPENDED' and at_us > 1 then
  line = line .. ' until_ms=' .. string.format('%.0f', math.ceil(at_us / 1000))
elseif code == 'BUDGET_EXHAUSTED' then
  line = line .. ' resets_at_ms=' .. string.format('%.0f', math.ceil(at_us / 1000))
end
--% if batch
if item then line = line .. ' item=' .. item end
--% endif
--% if batch or sandbox
-- A denial that depends on what keys hold is recorded and counts for the breaker: free questions
-- would reveal to writers what they may not read. Operators ask with a token of their own.
if not is_check or token_id ~= {{ asking_id }} and (code == 'VALUE_REFUSED' or code == 'VALUE_TOO_LARGE' or code == 'WORK_TOO_LARGE') then
--% endif
-- A client with a stale guard will use the new one; without a state there is no identity.
if code ~= 'POLICY_STALE' and code ~= 'NOT_ACTIVE' then
  if detail == 'class' then key, reason = key or reason, value elseif detail == 'limit' or code == 'SUSPENDED' then reason = value end
--% include "record/append_denial.lua"
--% if breaker
--% include "record/break_circuit.lua"
--% endif
end
--% if batch or sandbox
end
--% endif
