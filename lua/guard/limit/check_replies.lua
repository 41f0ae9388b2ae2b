-- check_replies: find whether the replies of a batch so far have used up a limit of bytes.
-- in:  now_us, token_id, counted_N, byte_caps
-- out: at_us, code, detail, value
code, at_us = nil, nil
repeat
--% for limit in reply_limits
--% filter suffix(limit.number)
--% with taken = 1
do
--% if limit.subject == "token"
  local kept = counted_N[{{ limit.key_prefix }} .. {{ root_of("token_id") }}]
--% if limit.slot.kind == "budget"
  local ends_N, used_N = kept[1], kept[2]
--% else
  local tat_N = kept
--% endif
--% endif
--% include "limit/check_" ~ limit.slot.kind ~ ".lua"
end
if code then break end
--% endwith
--% endfilter
--% endfor
--% if counts_bytes
for i = 1, byte_caps and #byte_caps or 0 do
  local cap = byte_caps[i]
  if cap.counter == {{ cap_number("bytes_read") }} and not (cap.used < cap.limit) then
    code, detail, value, at_us = 'BUDGET_EXHAUSTED', 'limit', 'token.bytes_read' .. (cap.is_inherited and ' by=ancestor' or ''), cap.ends_us
    break
  end
end
--% endif
until true
