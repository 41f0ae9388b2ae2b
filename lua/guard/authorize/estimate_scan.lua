-- estimate_scan: the number of elements that a scan compares with a glob, for `weigh`.
-- in:  place, stop, default, size, names, weight, left, word, number, arg, bounded, elements, usage
-- out: n, pushed
local count, glob, at = default, '', place
while at <= stop do
  if word(at) == 'COUNT' then count = max(default, number(at + 1) or 0) end
  if word(at) == 'MATCH' then glob = arg(at + 1) end
  at = at + (word(at) == 'NOVALUES' and 1 or 2)
end
-- A star before the end of a glob tries every position of the compared text.
local held = size ~= {{ Size.NONE }} and find(glob, '%*[^*?][^*?][^*?][^*?]') and elements()
pushed = bounded(count)
n = pushed * (1 + #glob / (find(glob, '*.') and 4 or 64))
-- At each position, the rest of the glob is compared.
if held and n * weight <= left then
  n = n + usage(names[1], min(1000, held)) * #glob * min(1, #glob > 32 and 1 or count * 10 / held)
end
