-- A channel is no key: it is not declared, and deny rules do not speak of it.
if name_at + {{ rule.channel }} <= stop then
  key = argv[name_at + {{ rule.channel }}]
  local matched = false
--% with matchers = rule.channels
--% include "authorize/match_any.lua"
--% endwith
  if not matched then code, detail, value = 'CHANNEL_NOT_GRANTED', 'channel', key end
end
