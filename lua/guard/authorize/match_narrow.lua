-- match_narrow: set matched if one of the keys of the token is a key, or a beginning of it.
-- in:  narrow, cap_count, record, key
-- out: matched
--
-- Each is 0 for a key or 1 for a beginning, its length, and its text.
local at = {{ tail_at }} + cap_count * {{ cap_bytes }}
matched = false
for _ = 1, narrow do
  local is_open, length = string.byte(record, at, at + 1)
  if not length or matched then break end
  matched = string.sub(key, 1, length) == string.sub(record, at + 2, at + 1 + length) and ({{ not whole }} and is_open == 1 or {{ not starts }} and is_open ~= 1 and #key == length)
  at = at + 2 + length
end
