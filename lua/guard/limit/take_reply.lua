-- take_reply: count the bytes of a reply towards the limits of bytes that are read.
-- in:  reply, now_us, token_id, kept_N, counted_N, byte_caps
-- out: byte_caps, counted_N, ends_N, kept_N, tat_N, used_N
--
-- Only strings count. A reply is known after its command, so it may be more than what was left.
local read = (function(reply)
  local function bytes_of(part)
    if type(part) == 'string' then return #part end
    local sum = 0
    if type(part) == 'table' and not part.err then
      for i = 1, #part do sum = sum + bytes_of(part[i]) end
    end
    return sum
  end
  return bytes_of(reply)
end)(reply)
--% for limit in reply_limits
--% filter suffix(limit.number)
--% with taken = name("read"), numbers = name("{ ends_N, used_N }" if limit.slot.kind == "budget" else "tat_N")
do
--% if limit.subject == "token"
--% if batch
  local counts = counted_N[{{ limit.key_prefix }} .. {{ root_of("token_id") }}]
--% else
  local counts = kept_N[1]
--% endif
--% if limit.slot.kind == "budget"
  local ends_N, used_N = counts[1], counts[2]
--% else
  local tat_N = counts
--% endif
--% endif
--% include "limit/take_" ~ limit.slot.kind ~ ".lua"
--% if limit.subject == "token"
--% if batch
  counted_N[{{ limit.key_prefix }} .. {{ root_of("token_id") }}] = {{ numbers }}
--% else
  kept_N[1] = {{ numbers }}
--% endif
--% endif
end
--% endwith
--% endfilter
--% endfor
--% if counts_bytes
for i = 1, byte_caps and #byte_caps or 0 do
  local cap = byte_caps[i]
  if cap.counter == {{ cap_number("bytes_read") }} then cap.used, cap.is_charged = cap.used + read, true end
end
--% endif
