-- check_bound_channel: deny a channel that the restrictions of the token leave out.
-- in:  mask, bindings, key, find
-- out: amount, code, detail, value
--
-- Restrictions on keys do not apply to channels.
local match = string.match
local matched, channel = bindings == 0, key
--% with class = "subscribe" if rule.subscribes or rule.counts else "publish", bit = 32 if rule.subscribes or rule.counts else 16
if mask % {{ 2 * bit }} < {{ bit }} then
  code, detail, value, amount = 'CLASS_NOT_GRANTED', 'class', {{ class }}, ' by=token'
end
--% endwith
--% with binding = true
if bindings > 0 then
--% if rule.subscribes == "pattern"
  local key = match(channel, '^[^*?%[\\]*')
--% with matchers = rule.open_channels | selectattr("captured") | list
--% include "authorize/match_any.lua"
--% endwith
  if key == channel then
--% with matchers = rule.channels | selectattr("captured") | list
--% include "authorize/match_any.lua"
--% endwith
  end
--% else
--% with matchers = rule.channels | selectattr("captured") | list
--% include "authorize/match_any.lua"
--% endwith
--% endif
end
--% endwith
if not matched and not code then code, detail, value, amount = 'CHANNEL_NOT_GRANTED', 'channel', channel, ' by=token' end
