-- check_channel: deny a channel that is not granted. Channels are not declared and no deny rule
-- applies to them.
-- in:  name_at, stop, argv
-- out: code, detail, key, value
if name_at + {{ rule.channel }} <= stop then
  key = argv[name_at + {{ rule.channel }}]
  local matched = false
--% with matchers = rule.channels
--% include "authorize/match_any.lua"
--% endwith
  if not matched then code, detail, value = 'CHANNEL_NOT_GRANTED', 'channel', key end
end
