-- weigh: estimate the work of a call before it runs. Sizes are asked for in O(1) each.
-- in:  command, argv, base (the place of its name), stop; names: its keys on the server; left:
--      the work that is still allowed
-- out: returns units of work; more than `left` if the server does not say how large a key is
local function weigh(command, argv, base, stop, names, left)
  -- As `Work` in commands/spec.py, one letter each; see `plans_of` in compiler/sizes.py.
  local size, join, first, last, bound, place, default, weight = string.match({{ plans }}, '[\n,]' .. command .. '%f[,=][^=]*=(.)(.)(.)(.)(.)(.)(%d+) (%S+)')
  -- A key that is missing is the command's own error.
  if size ~= '-' and not names[1] then return 0 end
  place, default = base + place, default + 0
  local many = #names > {{ unasked_keys }}
  local min, max, huge, n = math.min, math.max, math.huge, nil

  local function number(at) return tonumber(argv[at] or '') end

  -- A word as a server compares it: in any case, up to a NUL byte.
  local function word(at) return string.upper(string.match(argv[at] or '', '^%Z*')) end

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
    -- A key of another type is the command's own error. Any other error leaves the size unknown.
    return find(reply.err, '^WRONGTYPE') and 0 or huge
  end

  local function elements()
    local sum, least, most, product, count = 0, 1e15, 0, 1, 0
    for i = first + 0, last == '0' and #names or min(last, #names) do
      local kind, part = size, 1
      if kind == 'A' then
        kind = call('TYPE', names[i]).ok
        -- A string has bytes, not elements.
        if kind == 'string' then part = {{ bytes_per_element }} end
      end
      local by = string.match({{ sizes }}, ' ' .. kind .. '=(%u+)')
      local held = by and ask(by, names[i]) / part or huge
      -- Few elements of many keys may still be many bytes.
      if many and join == 's' and size ~= 'B' then held = held + ask('MEMORY', 'USAGE', names[i]) * {{ string_work }} / weight end
      sum, least, most, product, count = sum + held, min(least, held), max(most, held), product * held, count + 1
    end
    -- No more is compared than the smallest has, with each of the others.
    return join == 's' and sum or join == 'p' and product or count * (join == 'l' and least or most)
  end

  -- What arguments bound to so little that asking would cost as much is not asked for.
  local function bounded(n)
    if size == '-' or n * weight <= min({{ unasked_work }}, left) then return n end
    return min(n, elements())
  end
--% if "e" in bounds or "x" in bounds

  -- An entry may have many words, and no command counts entries: they are read in portions.
  local function entries(name, range, from, to, count, left)
    local work, seen = 0, 0
    if count <= {{ plain_entries }} then
      local held = many and ask('XLEN', name) or 0
      if held > 0 then work = min(count, held) * ask('MEMORY', 'USAGE', name) / held * {{ string_work }} end
      return work + count * weight
    end
    repeat
      local found = redis.pcall(range, name, from, to, 'COUNT', 64)
      for i = 1, #found do
        seen, from = seen + 1, '(' .. found[i][1]
        work = work + weight + #found[i][2] * {{ word_work }}
      end
    until #found < 64 or seen >= count or work > left
    return work
  end
--% endif
--% if "g" in bounds or "x" in bounds

  -- The work of asking for a stream's groups and their consumers; a group as XINFO returns it.
  local function group_of(name, group)
    local stream, work, held = redis.pcall('XINFO', 'STREAM', name), 0, nil
    for i = 1, #stream, 2 do
      if stream[i] == 'groups' then work = stream[i + 1] * {{ group_work }} end
    end
    local groups = work <= left and redis.pcall('XINFO', 'GROUPS', name) or {}
    for i = 1, #groups do
      if groups[i][2] == group then held, work = groups[i], work + groups[i][4] * {{ consumer_work }} end
    end
    return work, held
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
    if n * weight <= left then n = n + ask('MEMORY', 'USAGE', names[1], 'SAMPLES', 0) / {{ bytes_per_element }} end
--% endif
--% if "i" in bounds
  elseif bound == 'i' then
    -- A list is walked by its nodes, and the elements of one.
    n = min(math.abs(number(place) or 0), 4096)
--% endif
--% if "c" in bounds
  elseif bound == 'c' then
    n = number(place) or 1
    if n < 0 then
      -- The same element may come again and again.
      local held = elements()
      n = held > 0 and -n * (1 + ask('MEMORY', 'USAGE', names[1], 'SAMPLES', 1000) / held * {{ string_work }} / weight) or 0
    else
      n = bounded(n)
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
    local _, filter = option('FILTER', base + 1)
    n = bounded((n or default) * (1 + #(argv[filter or 0] or '') / 64))
--% endif
--% if "n" in bounds
  elseif bound == 'n' then
    -- Only with ANY does COUNT end the search.
    local most, found = option('COUNT', place)
    n = bounded(found and word(found + 1) == 'ANY' and most or huge)
--% endif
--% if "r" in bounds
  elseif bound == 'r' then
    local from, to, low, high = argv[place] or '', argv[place + 1] or '', number(place) or 0, number(place + 1) or 0
    local lex = find(command, 'LEX') or option('BYLEX', place)
    if lex or find(command, 'SCORE') or option('BYSCORE', place) then
      local _, found = option('LIMIT', place)
      local offset, count = found and number(found) or 0, found and number(found + 1) or -1
      if count < 0 then count = huge end
      -- What an offset skips is only walked over.
      n = bounded(count + offset / 40)
      if n * weight > left then
        if find(command, 'REV') or option('REV', place) then from, to = to, from end
        n = min(count, ask(lex and 'ZLEXCOUNT' or 'ZCOUNT', names[first + 0] or '', from, to)) + min(offset, n) / 40
      end
    elseif low >= 0 and high < 0 then
      n = max(0, elements() + high - low + 1)
    else
      n = bounded(max(0, low < 0 and high >= 0 and huge or high - low + 1))
    end
--% endif
--% if "s" in bounds
  elseif bound == 's' then
    local count, glob, at = default, '', place
    while at <= stop do
      if word(at) == 'COUNT' then count = max(default, number(at + 1) or 0) end
      if word(at) == 'MATCH' then glob = argv[at + 1] or '' end
      at = at + (word(at) == 'NOVALUES' and 1 or 2)
    end
    -- A star before the end of a glob tries every place of what it is compared with.
    n = bounded(count) * (find(glob, '*.') and 1 + #glob / 4 or 1)
--% endif
--% if "e" in bounds
  elseif bound == 'e' then
    return entries(names[1], command, argv[place] or '', argv[place + 1] or '', option('COUNT', place + 2) or huge, left)
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
      local id, asking, held = argv[stop - #names + i], 0, nil
      if work > left then break end
      if group and (blocks or id == '>' and count > {{ plain_entries }}) then asking, held = group_of(names[i], group) end
      if held and id == '>' then id = held[8] end
      work = work + asking
      if id ~= '$' then work = work + entries(names[i], 'XRANGE', '(' .. id, '+', id == '+' and 1 or count, left - work) end
    end
    return work
--% endif
--% if "g" in bounds
  elseif bound == 'g' then
    local work, held = group_of(names[1], argv[place])
    -- With a range, entries are looked at until enough are found.
    return work + (held and stop > place and held[6] / 2 or 0)
--% endif
--% if "f" in bounds
  elseif bound == 'f' then
    n = word(place) == 'FULL' and ask('MEMORY', 'USAGE', names[1]) or 0
--% endif
--% if "d" in bounds
  elseif bound == 'd' then
    -- A projection is a matrix from all dimensions to those that are kept.
    n = (option('REDUCE', place) or 0) * (word(place + 2) == 'FP32' and #(argv[place + 3] or '') / 4 or number(place + 3) or 0)
--% endif
  end
  return n * weight
end
