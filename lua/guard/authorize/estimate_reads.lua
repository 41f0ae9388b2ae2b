-- estimate_reads: the number of entries that XREAD or XREADGROUP returns, for `weigh`.
-- in:  base, stop, argv, names, weight, left, word, number, entries, group_of
-- out: n, asked
local count, at, work, group, blocks = 0, base + 1, 0, nil, nil
while at < stop - 2 * #names do
  local name = word(at)
  if name == 'COUNT' then count = number(at + 1) or 0 end
  if name == 'GROUP' then group, at = argv[at + 1], at + 1 end
  blocks = blocks or name == 'BLOCK'
  at = at + (name == 'NOACK' and 1 or 2)
end
if count <= 0 then count = huge end
for i = 1, #names do
  local id, held = argv[stop - #names + i], nil
  if group and (blocks or count > {{ plain_entries }}) then
    held = group_of(names[i], group)
    -- Before a call that would block, the guard estimates again.
    if blocks then asked = asked + asked end
  end
  -- Pending entries may be deleted from the stream.
  if held and id == '>' then id = held[8] elseif held then work = work + min(count, held[6]) * weight end
  if id ~= '$' then work = work + entries(names[i], 'XRANGE', '(' .. id, '+', id == '+' and 1 or count) end
  if work + asked > left then break end
end
n = work / weight
