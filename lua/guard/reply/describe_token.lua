-- describe_token: reply with the time and the records of the token and of what its limits counted.
-- in:  now_us, record, token_id
-- out: reason
--
-- The guard record lists the limits, from which a client computes what is left. Nothing is written.
local found = { string.format('%.0f', now_us), record, call('GET', {{ names.state }}) }
--% for limit in limits if limit.subject == "token"
found[#found + 1] = call('GETRANGE', {{ limit.key_prefix }} .. {{ root_of("token_id") }}, 0, -1)
--% endfor
--% if renews
--% include "authorize/read_issue.lua"
found[#found + 1], found[#found + 2] = string.format('%.0f', (latest_us or 0) / 1000), string.format('%.0f', (life_us or 0) / 1000)
--% endif
return found
