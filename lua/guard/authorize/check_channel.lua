-- check_channel: deny a channel that is not granted, or too long. Channels are not declared and no deny rule
-- applies to them.
-- in:  name_at, stop, argv, command, bindings
-- out: amount, argv, code, detail, key, value
--% if rule.subscribes
-- The event names one channel.
if name_at + {{ rule.channel }} < stop then
  code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[name_at + {{ rule.channel + 1 }}]
end
-- A script cannot subscribe: the client does, when it has this reply.
argv[name_at] = 'ECHO'
--% endif
for at = name_at + {{ rule.channel }}, stop do
  key = argv[at]
  if #key > {{ key_bytes }} then
    code, detail, value, amount = 'KEY_TOO_LONG', 'key', key, {{ too_long }}
    break
  end
  local matched = false
--% if rule.subscribes == "pattern"
  local pattern = key
  -- A granted channel that ends with `*` and matches the literal beginning matches the rest too.
  key = string.match(pattern, '^[^*?%[\\]*')
--% with matchers = rule.open_channels
--% include "authorize/match_any.lua"
--% endwith
  if key == pattern then
--% with matchers = rule.channels
--% include "authorize/match_any.lua"
--% endwith
  end
  key = pattern
--% else
--% with matchers = rule.channels
--% include "authorize/match_any.lua"
--% endwith
--% endif
  if not matched and not code then code, detail, value = 'CHANNEL_NOT_GRANTED', 'channel', key end
--% if bound_tokens
  if bindings and not code then
--% include "authorize/check_bound_channel.lua"
  end
--% endif
  -- Further arguments are channels only if they are counted.
  if code or {{ not rule.counts }} then break end
end
