-- note_byte_cap: note a cap of bytes, once for all commands of the call; check_byte_caps reads it.
-- in:  at, caps_at, counter, limit, period_us, used_N, ends_N, life_us, token_key
-- out: byte_caps
byte_caps = byte_caps or {}
-- In the record: the caps of a batch are a string of their own.
local place = at - caps_at + {{ tail_at }}
if not byte_caps[{{ holder }} .. place] then
  byte_caps[{{ holder }} .. place] = true
  byte_caps[#byte_caps + 1] = { counter = counter, limit = limit, period_us = period_us, life_us = life_us, used = used_N, ends_us = ends_N, key = {{ holder }}, used_at = place + {{ cap_used_at }}, is_inherited = {{ holder }} ~= token_key }
end
