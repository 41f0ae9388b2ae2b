-- check_chain: deny a child token if the policy allows fewer delegations, or if one of its ancestors
-- is over; read the caps of these.
-- in:  record, chain_at, now_us, token_id
-- out: amount, ancestors, code, detail, token_id, value
--
-- Behind it `token_id` is the path of ids from the issued token on. An ancestor
-- with a damaged record counts as ended.
local names, path = {}, ''
for at = chain_at, #record - 1, {{ chain_bytes }} do
  path = path .. string.sub(record, at, at + {{ id_chars - 1 }}) .. '.'
  names[#names + 1] = {{ names.token_prefix }} .. string.sub(record, at + {{ id_chars }}, at + {{ chain_bytes - 1 }})
end
token_id = path .. token_id
if #names > {{ delegate.depth }} then code, detail, value = 'TOKEN_REVOKED', 'depth', tostring(#names) break end
local found = call('MGET', unpack(names))
for i = 1, #names do
  local ancestor, of_caps = found[i] or '', 0
  local ends_us, is_live, flags = 0, false, 0
  if #ancestor >= {{ record_bytes }} and #ancestor <= {{ most_record_bytes }} then
    local _
    ends_us, _, flags = struct.unpack('<ddB', ancestor)
    if flags == 0 then
      is_live = i == 1
    elseif #ancestor >= {{ tail_at - 1 }} then
      of_caps = string.byte(ancestor, {{ record_bytes + 4 }})
      is_live = of_caps <= {{ max_caps }} and {{ tail_at - 1 }} + of_caps * {{ cap_bytes }} <= #ancestor
      is_live = is_live and flags == (i == 1 and {{ bound_flag }} or {{ bound_flag + child_flag }})
    end
  end
  if not (is_live and ends_us > now_us and ends_us < {{ latest_us }}) then
    code, detail, value = 'TOKEN_REVOKED', 'ancestor', string.sub(path, i * {{ id_chars + 1 }} - {{ id_chars }}, i * {{ id_chars + 1 }} - 1)
    amount = ' state=' .. (flags % 2 == 1 and 'revoked' or flags >= {{ rotated_flag }} and 'rotated' or 'expired')
    break
  end
  if of_caps > 0 then
    ancestors = ancestors or {}
    ancestors[#ancestors + 1] = { ancestor, {{ tail_at }}, of_caps, ends_us, names[i] }
  end
end
