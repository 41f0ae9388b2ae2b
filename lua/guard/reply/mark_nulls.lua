-- mark_nulls: mark nulls in the replies of commands that ran under RESP2.
-- in:  n, typeds
-- out: replies
--
-- The whole reply is read as RESP3, where `false` is a boolean, which modules may return; in
-- replies under RESP2 it is a null. A function is sent as null.
redis.setresp(3)
local function with_nulls(reply)
  if not reply then return find end
  if type(reply) == 'table' then
    for i = 1, #reply do reply[i] = with_nulls(reply[i]) end
  end
  return reply
end
for i = 1, n do
  if not typeds[i] then replies[i] = with_nulls(replies[i]) end
end
