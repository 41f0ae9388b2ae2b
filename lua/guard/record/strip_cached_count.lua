-- PFCOUNT writes the count that it found into a HyperLogLog, which is no other one by that.
if string.find(value, '^HYLL[%z\1]%z%z%z........') then
  value = string.sub(value, 1, 8) .. string.sub(value, 17)
end
