-- check_byte_caps: deny a call that a cap of bytes does not allow.
-- in:  byte_caps, reads, writes, bytes, argv, name_at, stop, keys, times, from, run_end, now_us
-- out: amount, at_us, bytes, code, detail, value
for i = 1, #byte_caps do
  local cap = byte_caps[i]
  local is_read = cap.counter == {{ cap_number("bytes_read") }}
  if is_read and reads or not is_read and writes then
    if not cap.is_open then
      local counter, limit, period_us, life_us, used_N, ends_N, code = cap.counter, cap.limit, cap.period_us, cap.life_us, cap.used, cap.ends_us
--% include "limit/open_cap.lua"
      cap.used, cap.ends_us, cap.is_corrupt, cap.is_open = used_N, ends_N, code, true
    end
    if not bytes then
      bytes = 0
--% include "limit/measure_bytes.lua"
    end
    if cap.is_corrupt then
      code = 'COUNTER_CORRUPT'
    elseif not (cap.used + (is_read and 1 or bytes) <= cap.limit) then
      code, at_us = 'BUDGET_EXHAUSTED', cap.ends_us
--% if running
    elseif is_read and times then
      -- Replies are counted one by one, so the run is written out.
      code = 'BUDGET_EXHAUSTED'
--% endif
    end
    if code then
      detail, value = 'limit', is_read and 'token.bytes_read' or 'token.bytes_written'
      if cap.is_inherited then amount = ' by=ancestor' end
      break
    end
  end
end
