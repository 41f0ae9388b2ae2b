-- read_issue: read until when the token may be renewed, and the life that it was issued with.
-- in:  token_id, now_us, chain_at
-- out: latest_us, life_us, reason   `latest_us` is nil if it is never renewed, for that reason
--
-- The facts are those that operators list. They are checked: no token lives longer than the policy
-- allows from now.
local latest_us, life_us
local is_read, facts = pcall(cjson.decode, call('HGET', {{ names.tokens }}, token_id) or '')
local issued_ms = is_read and type(facts) == 'table' and facts.issued_ms
local is_child = false
--% if delegate
-- So none lives longer than its ancestors and the policy's `delegate` allow.
is_child = chain_at ~= nil
--% endif
if is_child then
  reason = 'delegated'
elseif type(issued_ms) ~= 'number' or type(facts.expires_ms) ~= 'number' or not (issued_ms < {{ latest_us }}) then
  reason = 'unknown'
elseif type(facts.replaced_by) == 'string' then
  reason = 'replaced'
else
  latest_us = math.min(issued_ms * 1000, now_us) + {{ max_ttl_us }}
  life_us = math.min(math.max((facts.expires_ms - issued_ms) * 1000, 1000000), {{ max_ttl_us }})
end
