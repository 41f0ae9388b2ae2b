-- check_tag: refuse a tag that is not the first text in its slot, as `store/placement.py` has it.
-- in:  shard
-- out: code, detail, value   set if it is refused
--
-- So an identity has one shard for each slot at most, whatever clients send. A CRC is linear: that of
-- a text is the XOR of those of its digits, each in its place.
local digits, crcs, ends, slot = '0123456789abcdefghijklmnopqrstuvwxyz', { {}, {}, {}, {} }, {}, 0
for i = 1, #digits do
  local crc = string.byte(digits, i) * 256
  for place = 1, #crcs do
    for _ = 1, 8 do crc = crc < 32768 and crc * 2 or bit.bxor(crc * 2, 0x11021) end
    crcs[place][i] = crc % 16384
  end
  ends[crcs[1][i]] = i
end
for i = 1, #shard do slot = bit.bxor(slot, crcs[#shard + 1 - i][find(digits, string.sub(shard, i, i), 1, true)]) end
local function first_text(slot, length)
  if length == 1 then return ends[slot] and string.sub(digits, ends[slot], ends[slot]) end
  for i = 1, #digits do
    local rest = first_text(bit.bxor(slot, crcs[length][i]), length - 1)
    if rest then return string.sub(digits, i, i) .. rest end
  end
end
local length = 1
while length < #shard and (first_text(slot, length) or {{ lease.home_tag }}) == {{ lease.home_tag }} do length = length + 1 end
if first_text(slot, length) ~= shard then code, detail, value = 'LEASE_REFUSED', 'reason', 'tag' break end
