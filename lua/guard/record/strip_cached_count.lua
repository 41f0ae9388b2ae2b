-- strip_cached_count: zero the cached count of a HyperLogLog: PFCOUNT writes it, and the value
-- stays the same.
-- in:  none
-- out: value
if string.find(value, '^HYLL[%z\1]%z%z%z........') then
  value = string.sub(value, 1, 8) .. string.sub(value, 17)
end
