-- estimate_range: the number of elements between two positions, scores or members, for `weigh`.
-- in:  command, place, names, first, size, weight, left, arg, number, option, ask, bounded, elements
-- out: n, pushed
local from, to, low, high = arg(place), arg(place + 1), number(place) or 0, number(place + 1) or 0
local lex = find(command, 'LEX') or option('BYLEX', place)
if lex or find(command, 'SCORE') or option('BYSCORE', place) then
  local _, found = option('LIMIT', place)
  local offset, count = found and number(found) or 0, found and number(found + 1) or -1
  if count < 0 then count = huge end
  -- Skipped elements cost less than returned ones.
  n = bounded(count + offset / 40)
  if n * weight > min({{ unasked_work }}, left) then
    if find(command, 'REV') or option('REV', place) then from, to = to, from end
    pushed = min(count, ask(lex and 'ZLEXCOUNT' or 'ZCOUNT', names[first + 0] or '', from, to))
    n = pushed + min(offset, n) / 40
  end
elseif low >= 0 and high < 0 then
  n = max(0, elements() + high - low + 1)
else
  n = bounded(max(0, low < 0 and high >= 0 and huge or high - low + 1))
end
-- A list is walked to where the range begins.
if size == {{ Size.LLEN }} then pushed, n = n, n + math.abs(low) / 20 end
