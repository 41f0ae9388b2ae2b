-- estimate_entries: functions for the work of stream entries, for `weigh`.
-- in:  names, bound, weight, left, min, asked
-- out: words_of, entries, asked
-- The work of the words of an entry.
local function words_of(entry)
  local words = entry and entry[2] or {}
  local work = #words * math.max({{ word_work }}, {{ string_units }})
  for at = 1, #words do work = work + #words[at] * {{ string_work }} end
  return work
end

-- An entry may have many words, and no command counts entries: they are read in portions, which
-- is as much work as the call itself.
local function entries(name, range, from, to, count)
  if bound ~= {{ Bound.REPEATS }} and #names <= 4 and count * #names <= {{ plain_entries }} then return count * weight end
  local work, seen = 0, 0
  repeat
    local found = redis.pcall(range, name, from, to, 'COUNT', min(64, count))
    for i = 1, #found do
      seen, from, work = seen + 1, '(' .. found[i][1], work + weight + {{ string_units }} + words_of(found[i])
    end
  until #found < min(64, count) or seen >= count or work + work + asked > left
  asked = asked + {{ question_work }} + work
  return work
end
