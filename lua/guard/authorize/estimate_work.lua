-- estimate_work: estimate the work of a call before it runs. Sizes are asked for in O(1) each.
-- in:  none
-- out: weigh, usages, sizes
--
-- `weigh` gets the place of the command's name as `base`, the keys on the server as `names` and the
-- work that is still allowed as `left`. It returns units of work, more than `left` if the server
-- does not report how large a key is, and the work of asking.
local usages, sizes = {}, {}
local function weigh(command, argv, base, stop, names, left)
  -- As `Work` in commands/spec.py, one letter each; see `plans_of` in compiler/sizes.py.
  local plans = {{ plans }}
  local size, join, first, last, bound, place, default, weight = string.match(plans, '=(.)(.)(.)(.)(.)(.)(%d+) (%S+)', find(plans, ',' .. command .. ',', 1, true))
  -- A key that is missing is the command's own error.
  if size ~= '-' and not names[1] then return 0, 0 end
  -- Where nothing is left, nothing is asked.
  if left < {{ asking_work }} then return {{ asking_work }}, 0 end
  place, default = base + place, default + 0
  local min, max, huge, n = math.min, math.max, math.huge, nil
  local asked = {{ asking_work }}

  -- In a batch, the next command stands behind the last argument.
  local function arg(at) return at <= stop and argv[at] or '' end

  local function number(at)
    local found = tonumber(arg(at))
    -- NaN is no number to a server.
    return found == found and found or nil
  end

  -- A word as a server compares it: in any case, up to a NUL byte.
  local function word(at) return string.upper(string.match(arg(at), '^%Z*')) end

  -- The largest number behind an option, and the place behind its last occurrence.
  local function option(name, from)
    local most, found
    for at = from, stop do
      if word(at) == name then
        found = at + 1
        most = max(most or 0, number(found) or 0)
      end
    end
    return most, found
  end

  local function ask(...)
    local reply = redis.pcall(...) or 0
    if type(reply) == 'number' then return reply end
    -- A key of another type, and a range that is none, are the command's own errors. Any other
    -- error leaves the size unknown.
    return (find(reply.err, '^WRONGTYPE') or find(reply.err, '^ERR min or max')) and 0 or huge
  end

  -- The bytes of a key, as elements; `found` of these are looked at, and not all if it is 0.
  local function usage(name, found)
    if not usages[name] then
      asked = asked + found * {{ usage_work }}
      usages[name] = asked > left and huge or ask('MEMORY', 'USAGE', name, 'SAMPLES', max(1, math.ceil(found))) / {{ bytes_per_element }}
    end
    return usages[name]
  end

  local function elements()
    local often = ({{ batch }} or #names > 3) and bound == '-' and (size == 'A' or size == 'S' and last == '0')
    local sum, least, most, product, count = 0, 1e15, 0, 1, 0
    for i = first + 0, last == '0' and #names or min(last, #names) do
      local name = names[i]
      local known = bound .. size .. name
      local held = sizes[known]
      if not held then
        local kind, part = size, 1
        if kind == 'A' then
          asked = asked + {{ question_work }}
          kind = call('TYPE', name).ok
          -- A string has bytes, not elements.
          if kind == 'string' then part = {{ bytes_per_element }} end
        end
        asked = asked + {{ question_work }}
        local by = string.match({{ sizes }}, ' ' .. kind .. '=(%u+)')
        held = by and ask(by, name) / part or huge
        -- A few keys have few bytes, but the same one may be named often, also by the calls of a batch.
        if often and part == 1 and held > 0 and held * weight <= left then held = held + usage(name, held) end
        sizes[known] = held
      end
      asked = asked + {{ question_work / 10 }}
      if asked > left then return huge end
      sum, least, most, product, count = sum + held, min(least, held), max(most, held), product * (held + 1), count + 1
    end
    -- No more is compared than the smallest has, with each of the others.
    return join == 's' and sum or join == 'p' and product or count * (join == 'l' and least or most)
  end

  -- What arguments bound to so little that asking would cost as much is not asked for.
  local function bounded(n)
    if size == '-' or n * weight <= min({{ unasked_work }}, left) then return n end
    return min(n, elements())
  end
--% if "e" in bounds or "x" in bounds or "g" in bounds or "h" in bounds

  -- The work of the words of an entry.
  local function words_of(entry)
    local words = entry and entry[2] or {}
    local work = #words * {{ word_work }}
    for at = 1, #words do work = work + #words[at] * {{ string_work }} end
    return work
  end

  -- An entry may have many words, and no command counts entries: they are read in portions, which
  -- is as much work as the call itself.
  local function entries(name, range, from, to, count)
    if bound ~= 'h' and #names <= 4 and count * #names <= {{ plain_entries }} then return count * weight end
    local work, seen = 0, 0
    repeat
      local found = redis.pcall(range, name, from, to, 'COUNT', min(64, count))
      for i = 1, #found do
        seen, from, work = seen + 1, '(' .. found[i][1], work + weight + words_of(found[i])
      end
    until #found < min(64, count) or seen >= count or work + work + asked > left
    asked = asked + {{ question_work }} + work
    return work
  end
--% endif
--% if "g" in bounds or "x" in bounds

  -- Ask for a stream's groups and their consumers; returns a group as XINFO does.
  local function group_of(name, group)
    local stream, held = redis.pcall('XINFO', 'STREAM', name), nil
    for i = 1, #stream, 2 do
      if stream[i] == 'groups' then asked = asked + {{ question_work }} + stream[i + 1] * {{ group_work }} end
      -- It also returns the first and the last entry.
      if type(stream[i + 1]) == 'table' then asked = asked + words_of(stream[i + 1]) end
    end
    local groups = asked <= left and redis.pcall('XINFO', 'GROUPS', name) or {}
    for i = 1, #groups do
      if groups[i][2] == group then held, asked = groups[i], asked + groups[i][4] * {{ consumer_work }} end
    end
    return held
  end
--% endif

  if bound == '-' then
    n = elements()
--% if "k" in bounds or "a" in bounds
  elseif bound == 'k' or bound == 'a' then
    n = stop - base <= default and 0 or size == '-' and stop - base or elements()
--% endif
--% if "w" in bounds
  elseif bound == 'w' then
    n = elements()
    -- The bytes may be in a few elements, so all of these are looked at.
    -- Pending entries and consumers of a stream are few bytes, and much work.
    if n * weight <= left then n = max(n, usage(names[1], n) * (call('TYPE', names[1]).ok == 'stream' and 5 or 1)) end
--% endif
--% if "i" in bounds
  elseif bound == 'i' then
    -- A list is walked by its nodes, each of which may have few elements.
    n = bounded(math.abs(number(place) or 0))
--% endif
--% if "c" in bounds
  elseif bound == 'c' then
    n = number(place) or 1
    if n >= 0 or not find(command, 'RAND') then
      n = bounded(max(0, n))
    else
      n = -n
      -- The same element may come again and again.
      if n > 4 and n * weight <= left then
        local held = max(1, elements())
        n = n * (1 + usage(names[1], min(4000, held)) / held)
      end
    end
--% endif
--% if "o" in bounds
  elseif bound == 'o' then
    n = option('COUNT', base + 1)
    for name in string.gmatch('SAMPLES EF FILTER-EF', '%S+') do
      local most = option(name, base + 1)
      -- Without a bound all are looked at.
      if most then n = max(n or 0, most == 0 and huge or most) end
    end
    if select(2, option('TRUTH', base + 1)) then n = huge end
    local _, filter = option('FILTER', base + 1)
    n = n or default
    -- By default a filter is tried on a hundred times as many.
    if filter and not option('FILTER-EF', base + 1) then n = n * 100 end
    n = bounded(n) * (1 + #arg(filter or 0) / 64)
--% endif
--% if "n" in bounds
  elseif bound == 'n' then
    -- COUNT bounds what is returned, and with ANY what is sorted. Members nearby are looked at.
    local most, found = option('COUNT', place)
    local held = elements()
    n = min(most or huge, held) + held * (word((found or 0) + 1) == 'ANY' and 0.05 or most and 0.35 or 0)
--% endif
--% if "r" in bounds
  elseif bound == 'r' then
    local from, to, low, high = arg(place), arg(place + 1), number(place) or 0, number(place + 1) or 0
    local lex = find(command, 'LEX') or option('BYLEX', place)
    if lex or find(command, 'SCORE') or option('BYSCORE', place) then
      local _, found = option('LIMIT', place)
      local offset, count = found and number(found) or 0, found and number(found + 1) or -1
      if count < 0 then count = huge end
      -- What an offset skips is only walked over.
      n = bounded(count + offset / 40)
      if n * weight > min({{ unasked_work }}, left) then
        if find(command, 'REV') or option('REV', place) then from, to = to, from end
        n = min(count, ask(lex and 'ZLEXCOUNT' or 'ZCOUNT', names[first + 0] or '', from, to)) + min(offset, n) / 40
      end
    elseif low >= 0 and high < 0 then
      n = max(0, elements() + high - low + 1)
    else
      n = bounded(max(0, low < 0 and high >= 0 and huge or high - low + 1))
    end
    -- A list is walked to where the range begins.
    if size == 'L' then n = n + math.abs(low) / 20 end
--% endif
--% if "s" in bounds
  elseif bound == 's' then
    local count, glob, at = default, '', place
    while at <= stop do
      if word(at) == 'COUNT' then count = max(default, number(at + 1) or 0) end
      if word(at) == 'MATCH' then glob = arg(at + 1) end
      at = at + (word(at) == 'NOVALUES' and 1 or 2)
    end
    -- A star before the end of a glob tries every place of what it is compared with.
    local held = size ~= '-' and find(glob, '%*[^*?][^*?][^*?][^*?]') and elements()
    n = bounded(count) * (1 + #glob / (find(glob, '*.') and 4 or 64))
    -- And all that follows it there.
    if held and n * weight <= left then
      n = n + usage(names[1], min(1000, held)) * #glob * min(1, #glob > 32 and 1 or count * 10 / held)
    end
--% endif
--% if "e" in bounds
  elseif bound == 'e' then
    local from, to = arg(place), arg(place + 1)
    if command == 'XREVRANGE' and not redis.pcall('XRANGE', names[1], to, from, 'COUNT', 1)[1] then
      -- Before its first entry a stream is walked from its end.
      n = elements() / 15 + usage(names[1], 5) / 5
    else
      n = entries(names[1], command, from, to, option('COUNT', place + 2) or huge) / weight
    end
--% endif
--% if "x" in bounds
  elseif bound == 'x' then
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
        -- Before a call that would block, the guard asks again.
        if blocks then asked = asked + asked end
      end
      -- Entries that are pending may be gone from the stream.
      if held and id == '>' then id = held[8] elseif held then work = work + min(count, held[6]) * weight end
      if id ~= '$' then work = work + entries(names[i], 'XRANGE', '(' .. id, '+', id == '+' and 1 or count) end
      if work + asked > left then break end
    end
    n = work / weight
--% endif
--% if "g" in bounds
  elseif bound == 'g' then
    local held = group_of(names[1], argv[place])
    -- It returns the same again. With a range, entries are looked at until enough are found.
    local count = number(place + (word(place + 1) == 'IDLE' and 5 or 3)) or 0
    n = (asked + (held and stop > place and held[6] / 2 + min(held[6], count) * weight or 0)) / weight
--% endif
--% if "f" in bounds
  elseif bound == 'f' then
    n = word(place) == 'FULL' and ask('MEMORY', 'USAGE', names[1]) or 0
--% endif
--% if "d" in bounds
  elseif bound == 'd' then
    -- A projection is a matrix from all dimensions to those that remain.
    n = (option('REDUCE', place) or 0) * (word(place + 2) == 'FP32' and #(arg(place + 3)) / 4 or number(place + 3) or 0) + (option('EF', place) or 0) * 250
--% endif
--% if "h" in bounds
  elseif bound == 'h' then
    n = stop - base > default and (stop - base) or 0
    local seen, work = {}, 0
    for at = place, n > 0 and stop or 0 do
      local word = argv[at]
      -- What is named once is no more than the key holds.
      if seen[word] then
        work = work + (size == 'H' and {{ question_work }} + ask('HSTRLEN', names[1], word) * {{ string_work }} or size == 'X' and entries(names[1], 'XRANGE', word, word, 1))
      end
      seen[word] = true
      if work + asked > left then break end
    end
    n = n + work / weight
--% endif
--% if "y" in bounds
  elseif bound == 'y' then
    n = #(arg(place))
--% endif
  end
  return n * weight, asked
end
