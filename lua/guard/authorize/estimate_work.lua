-- estimate_work: estimate the work of a call before it runs. Each size is read in O(1).
-- in:  none
-- out: weigh, usages, sizes
--
-- `weigh` gets the place of the command's name as `base`, the keys on the server as `names` and the
-- work that is still allowed as `left`. It returns the units of work, more than `left` if the size
-- of a key is unknown, and the work of the estimate itself; for a denied pattern of SORT also the
-- code, the value and the reason.
local usages, sizes
local function weigh(command, argv, base, stop, names, left)
  -- `Work` of commands/spec.py, with letters for `Size`, `Join` and `Bound`; see `plans_of`.
  local plans = {{ plans }}
  local size, join, first, last, bound, place, default, weight, strung = string.match(plans, '=(.)(.)(.)(.)(.)(.)(%d+) (%S+) (%d)', find(plans, ',' .. command .. ',', 1, true))
  -- A key that is missing is the command's own error.
  if size ~= {{ Size.NONE }} and not names[1] then return 0, 0 end
  -- Without work left, no size is read.
  if left < {{ asking_work }} then return {{ asking_work }}, 0 end
  place, default = base + place, default + 0
  usages, sizes = usages or {}, sizes or {}
  -- `pushed` is the number of elements that the reply returns, if the work has others.
  local min, max, huge, n, pushed = math.min, math.max, math.huge, nil, nil
  local asked = {{ asking_work }}

  -- In a batch, the next command follows the last argument.
  local function arg(at) return at <= stop and argv[at] or '' end

  -- Servers accept no longer number where one bounds the work.
  local function number(at)
    local found = #arg(at) < 512 and tonumber(arg(at))
    -- NaN is no number to a server.
    return found == found and found or nil
  end

  -- A word as a server compares it: in any case, up to a NUL byte. All option words are short.
  local function word(at)
    local text = arg(at)
    -- A text that is made may collide with others, as a long argument may.
    if #text > 12 and not find(text, '\0', 1, true) then return '' end
    return string.upper(string.match(string.sub(text, 1, 32), '^%Z*'))
  end

  -- The largest number after an option, and the place after its last occurrence.
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
    -- A wrong type and an invalid range are the command's own errors. After any other error the
    -- size is unknown.
    return (find(reply.err, '^WRONGTYPE') or find(reply.err, '^ERR min or max')) and 0 or huge
  end

  -- The bytes of a key, as elements, estimated from a sample of `found` elements.
  local function usage(name, found)
    if not usages[name] then
      asked = asked + found * {{ usage_work }}
      usages[name] = asked > left and huge or ask('MEMORY', 'USAGE', name, 'SAMPLES', max(1, math.ceil(found))) / {{ bytes_per_element }}
    end
    return usages[name]
  end

  local function elements()
    local often = ({{ batch }} or #names > 3) and bound == {{ Bound.NONE }} and (size == {{ Size.ANY }} or size == {{ Size.SCARD }} and last == '0')
    local sum, least, most, product, count = 0, 1e15, 0, 1, 0
    for i = first + 0, last == '0' and #names or min(last, #names) do
      local name = names[i]
      local known = bound .. size .. name
      local held = sizes[known]
      if not held then
        local kind, part = size, 1
        if kind == {{ Size.ANY }} then
          asked = asked + {{ question_work }}
          kind = call('TYPE', name).ok
          -- A string has bytes, not elements.
          if kind == 'string' then part = {{ bytes_per_element }} end
        end
        asked = asked + {{ question_work }}
        local by = string.match({{ sizes }}, ' ' .. kind .. '=(%u+)')
        held = by and ask(by, name) / part or huge
        -- A few keys have few bytes, but one key may be named often, also by the calls of a batch.
        if often and part == 1 and held > 0 and held * weight <= left then held = held + usage(name, held) end
        sizes[known] = held
      end
      asked = asked + {{ question_work / 10 }}
      if asked > left then return huge end
      sum, least, most, product, count = sum + held, min(least, held), max(most, held), product * (held + 1), count + 1
    end
    if join == {{ Join.LEAST }} then pushed = least end
    -- Each element of the smallest key is compared with each of the others.
    return join == {{ Join.SUM }} and sum or join == {{ Join.PRODUCT }} and product or count * (join == {{ Join.LEAST }} and least or most)
  end

  -- Sizes are not read if the arguments bound the work to less than that of reading them.
  local function bounded(n)
    if size == {{ Size.NONE }} or n * weight <= min({{ unasked_work }}, left) and n * strung * {{ string_units }} <= left / {{ spare }} then return n end
    return min(n, elements())
  end
--% if Bound.ENTRIES in bounds or Bound.STREAMS in bounds or Bound.GROUPS in bounds or Bound.REPEATS in bounds
--% include "authorize/estimate_entries.lua"
--% endif
--% if Bound.GROUPS in bounds or Bound.STREAMS in bounds
--% include "authorize/estimate_groups.lua"
--% endif

  if bound == {{ Bound.NONE }} then
    n = elements()
--% if Bound.KEY_COUNT in bounds or Bound.WORDS in bounds
  elseif bound == {{ Bound.KEY_COUNT }} or bound == {{ Bound.WORDS }} then
    pushed = stop - base <= default and 0 or stop - base
    n = pushed == 0 and 0 or size == {{ Size.NONE }} and pushed or elements()
--% endif
--% if Bound.WHOLE in bounds
  elseif bound == {{ Bound.WHOLE }} then
    n = elements()
    -- A few elements may hold most of the bytes, so all of them are sampled.
    -- Pending entries and consumers of a stream are few bytes, and much work.
    if n * weight <= left then n = max(n, usage(names[1], n) * (call('TYPE', names[1]).ok == 'stream' and 5 or 1)) end
--% endif
--% if Bound.INDEX in bounds
  elseif bound == {{ Bound.INDEX }} then
    -- A list is walked node by node, and a node may have few elements.
    n = bounded(math.abs(number(place) or 0))
--% endif
--% if Bound.COUNT in bounds
  elseif bound == {{ Bound.COUNT }} then
    n = number(place) or 1
    if n >= 0 or not find(command, 'RAND') then
      n = bounded(max(0, n))
    else
      n, pushed = -n, -n
      -- The same element may be returned repeatedly.
      if n > 4 and n * weight <= left then
        local held = max(1, elements())
        n = n * (1 + usage(names[1], min(4000, held)) / held)
      end
    end
--% endif
--% if Bound.OPTION in bounds
  elseif bound == {{ Bound.OPTION }} then
--% include "authorize/estimate_options.lua"
--% endif
--% if Bound.ANY in bounds
  elseif bound == {{ Bound.ANY }} then
    -- COUNT bounds the returned members, and with ANY the sorted ones. Members nearby are visited.
    local most, found = option('COUNT', place)
    local held = elements()
    pushed = min(most or huge, held)
    n = pushed + held * (word((found or 0) + 1) == 'ANY' and 0.05 or most and 0.35 or 0)
--% endif
--% if Bound.RANGE in bounds
  elseif bound == {{ Bound.RANGE }} then
--% include "authorize/estimate_range.lua"
--% endif
--% if Bound.SCAN in bounds
  elseif bound == {{ Bound.SCAN }} then
--% include "authorize/estimate_scan.lua"
--% endif
--% if Bound.ENTRIES in bounds
  elseif bound == {{ Bound.ENTRIES }} then
    local from, to = arg(place), arg(place + 1)
    if command == 'XREVRANGE' and not redis.pcall('XRANGE', names[1], to, from, 'COUNT', 1)[1] then
      -- Before its first entry a stream is walked from its end.
      n = elements() / 15 + usage(names[1], 5) / 5
    else
      n = entries(names[1], command, from, to, option('COUNT', place + 2) or huge) / weight
    end
--% endif
--% if Bound.STREAMS in bounds
  elseif bound == {{ Bound.STREAMS }} then
--% include "authorize/estimate_reads.lua"
--% endif
--% if Bound.GROUPS in bounds
  elseif bound == {{ Bound.GROUPS }} then
    local held = group_of(names[1], argv[place])
    local pending = held and held[6] or 0
    -- The command reads the same again. With a range it visits entries until enough are found.
    local count = number(place + (word(place + 1) == 'IDLE' and 5 or 3)) or 0
    n = find(command, '^XGROUP') and pending or (asked + (held and stop > place and pending / 2 + min(pending, count) * weight or 0)) / weight
--% endif
--% if Bound.FULL in bounds
  elseif bound == {{ Bound.FULL }} then
    n = word(place) == 'FULL' and ask('MEMORY', 'USAGE', names[1]) or 0
--% endif
--% if Bound.REDUCE in bounds
  elseif bound == {{ Bound.REDUCE }} then
    -- A projection is a matrix from all dimensions to those that remain.
    n = (option('REDUCE', place) or 0) * (word(place + 2) == 'FP32' and #(arg(place + 3)) / 4 or number(place + 3) or 0) + (option('EF', place) or 0) * 250
--% endif
--% if Bound.REPEATS in bounds
  elseif bound == {{ Bound.REPEATS }} then
    n = stop - base > default and (stop - base) or 0
    pushed = n
    local seen, work = {}, 0
    for at = place, n > 0 and stop or 0 do
      local word = argv[at]
      -- Elements that are named once are bounded by the size of the key.
      if seen[word] then
        work = work + (size == {{ Size.HLEN }} and {{ question_work }} + ask('HSTRLEN', names[1], word) * {{ string_work }} or size == {{ Size.XLEN }} and entries(names[1], 'XRANGE', word, word, 1))
      end
      seen[word] = true
      if work + asked > left then break end
    end
    n = n + work / weight
--% endif
--% if Bound.PATTERNS in bounds
  elseif bound == {{ Bound.PATTERNS }} then
--% include "authorize/estimate_sort.lua"
--% endif
--% if Bound.SKETCH in bounds
  elseif bound == {{ Bound.SKETCH }} then
    n = 8
    for form in string.gmatch(string.match({{ sketches }}, command .. '=(%S+)'), '.') do
      local given = number(place)
      place = place + 1
      n = n * (not given and 1 or form == 'n' and given or form == 'd' and given + given * given / 16 or form == 'e' and 2 / given
        or given < 1e-30 and huge or 1 - math.log(given) * (form == 'p' and 1.5 or 0.125))
    end
    -- NaN and negative numbers are within no bound.
    if not (n > 0) then n = huge end
--% endif
--% if Bound.SAMPLES in bounds
  elseif bound == {{ Bound.SAMPLES }} then
    if last == '0' then
      -- One with a wrong number of keys stopped servers.
      n = (place > stop or #names - 1 == number(place)) and #names * (names[1] and usage(names[1], 0) or 0) * {{ bytes_per_element }} or huge
    else
      local info = redis.pcall('TS.INFO', names[1])
      -- Without a series, the error is the command's own.
      local held = info[2] or (find(info.err, '^WRONGTYPE') or find(info.err, '^TSDB')) and 0 or huge
      n = min(held, option('COUNT', place) or huge)
      -- Filters and aggregations read all.
      if stop > place then asked = asked + held / 20 end
    end
--% endif
--% if Bound.PATHS in bounds
  elseif bound == {{ Bound.PATHS }} then
--% include "authorize/estimate_paths.lua"
--% endif
--% if Bound.BYTES in bounds
  elseif bound == {{ Bound.BYTES }} then
    n = #(arg(place))
--% endif
  end
  pushed = (pushed or n) * strung
  local copies = find(command, 'STORE$') and n * weight <= left
  if (pushed > 0 or copies) and bound ~= {{ Bound.KEY_COUNT }} then
    -- Scores, values, distances and attributes of the elements.
    local times = 1
    for at = base + 2, bound == {{ Bound.REPEATS }} and 0 or stop do
      if find(word(at), '^WITH') then times = times + 1 end
    end
    pushed = pushed * times
    local moved = copies and n or pushed
    if moved > {{ compared_strings }} and pushed * {{ string_units }} <= left and size ~= {{ Size.NONE }} then
      -- Strings that collide are compared with each other, byte by byte.
      local held, bytes = elements(), 0
      if join ~= {{ Join.SUM }} then held = moved end
      for i = first + 0, last == '0' and #names or min(last, #names) do
        bytes = bytes + usage(names[i], moved / 4) * {{ bytes_per_element }}
      end
      bytes = bytes * min(1, moved / max(1, held * max(1, strung) * times))
      n = max(n, bytes * {{ byte_work }} / weight)
      bytes = bytes - {{ plain_string_bytes }} * pushed
      pushed = math.sqrt(pushed * (pushed + max(0, bytes) / {{ compared_bytes }}))
    end
  end
  -- With what is read, the arguments are in the server's Lua.
  if pushed > 0 then pushed = pushed + stop - base end
  return max(n * weight, pushed * {{ string_units }} - asked), asked
end
