--% for rule in rules if rule.variant
if rule == {{ rule.id }} then
--% if rule.variant_option is not none
  -- The server compares an option as a C string, which ends at a NUL byte.
  for at = 7, #argv do
    if find(argv[at], {{ option_pattern(rule.variant_option) }}) then rule = {{ rule.variant }} break end
  end
--% else
  local at = 6
  while at <= #argv do
    if find(argv[at], {{ option_pattern("GET") }}) and at + 2 <= #argv then
      at = at + 3
    elseif find(argv[at], {{ option_pattern("OVERFLOW") }}) and at + 1 <= #argv then
      at = at + 2
    else
      break
    end
  end
  if at > #argv then rule = {{ rule.variant }} end
--% endif
end
--% endfor
if false then
--% for rule in rules
elseif rule == {{ rule.id }} then
--% if rule.missing is not none
  code, detail, value = 'CLASS_NOT_GRANTED', 'class', {{ rule.missing }}
--% else
--% if rule.keys
--% include "partials/find_keys.lua"
--% else
--% if rule.first != 1
  first = {{ rule.first + 4 }}
--% endif
--% if rule.last < 0
  last = #argv - {{ -1 - rule.last }}
--% elif rule.last != 1
  last = {{ rule.last + 4 }}
--% endif
--% if rule.step != 1
  step = {{ rule.step }}
--% endif
--% endif
--% if rule.check
  check, rest = {{ rule.check }}, {{ rule.rest }}
--% endif
--% if "reads" in rule.counters
  reads = true
--% endif
--% if "writes" in rule.counters
  writes = true
--% endif
--% if "deletes" in rule.counters
  deletes = true
--% endif
--% if rule.mutates
  mutates = true
--% endif
--% for word in rule.refused_if
  for at = {{ rule.options_start + 4 }}, #argv do
    if find(argv[at], {{ option_pattern(word) }}) then
      code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. {{ word }}
    end
  end
--% endfor
--% if rule.scan is not none
--% include "partials/check_scan.lua"
--% endif
--% if rule.channel
--% include "partials/check_channel.lua"
--% endif
--% if waiting and rule.waits is not none and rule.waits != "block"
  waits = {{ rule.waits }}
--% endif
--% if rule.nulls == "keys"
  reply_length = #argv - 4
--% elif rule.nulls == "arguments"
  reply_length = #argv - 5
--% elif rule.nulls == "summary"
  reply_length = #argv == 6 and 4 or 0
--% elif rule.nulls == "fields"
  for at = 6, #argv do
    if find(argv[at], {{ option_pattern("FIELDS") }}) then reply_length = tonumber(argv[at + 1]) break end
  end
--% elif rule.nulls == "operations"
  reply_length = 0
  local at = 6
  while argv[at] do
    local word = string.upper(string.match(argv[at], '^%Z*'))
    if word == 'OVERFLOW' then
      at = at + 2
    else
      -- A wider integer comes back rounded, and cannot be read again: SET gives the old one.
      local width = tonumber(string.match(argv[at + 1] or '', '^[iu](%d+)') or 0)
      if width > 53 then
        code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at + 1]
      end
      reply_length = reply_length + 1
      at = at + (word == 'GET' and 3 or 4)
    end
  end
--% endif
--% endif
--% endfor
end
