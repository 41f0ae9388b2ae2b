-- check_caps: deny a call that a cap of the token does not allow, or else count it. Caps of bytes are
-- noted for check_byte_caps.
-- in:  caps, caps_at, cap_count, life_us, reads, writes, deletes, now_us, token_key, byte_caps
-- out: at_us, byte_caps, caps, caps_at, code, detail, value
--
-- Each is its counter, limit, period, uses and the end of the window. A batch leaves them one string,
-- which is written back; of one call only what changes is written: uses, and the end of a new window.
local counted, at = nil, caps_at
--% if not batch
local from, done
--% endif
for _ = 1, cap_count do
  local counter, limit, period_us, used_N, ends_N, last = struct.unpack({{ cap_format }}, caps, at)
  if counter == 1 or counter == 2 and reads or counter == 3 and writes or counter == 4 and deletes or counter > {{ max_caps }} then
--% include "limit/open_cap.lua"
    if not code then
--% if not batch
      local is_new = used_N == 0
--% endif
      used_N = used_N + {{ taken }}
      if not (used_N <= limit) then code, at_us = 'BUDGET_EXHAUSTED', ends_N end
--% if not batch
      local packed = is_new and struct.pack('<dd', used_N, ends_N) or struct.pack('<d', used_N)
      if counted then
        counted = counted .. string.sub(caps, done, last - 17) .. packed
      else
        counted, from = packed, last - 16
      end
      done = last - 16 + #packed
--% endif
    end
    if code then
      detail, value = 'limit', 'token.' .. (string.match(' requests reads writes deletes ', string.rep(' %a+', counter - 1) .. ' (%a+)') or '')
      break
    end
  elseif counter > 4 then
--% include "limit/note_byte_cap.lua"
  end
--% if batch
  local packed = struct.pack({{ cap_format }}, counter, limit, period_us, used_N, ends_N)
  counted = counted and counted .. packed or packed
--% endif
  at = last
end
if code then break end
--% if batch
caps, caps_at = counted, 1
--% else
caps, caps_at = counted, from
--% endif
