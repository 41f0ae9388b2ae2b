-- estimate_search: the work of the rows of a search, and of the strings and bytes in them.
-- in:  argv, key, options, filter, query, instead, shift, documents, left, on_json, count, number, spent
-- out: cost, documents, instead, restore, spent
--% if batch_work
local began = os.clock()
--% endif
local first, rows, unit, strings, lists = 0, documents, {{ hit_work }}, (filter and #filter or 0) + 2 * count(query, '=>'), 0
-- How often the bytes of a document are copied, those of all documents, and of the largest one.
local copies, held, largest = 0, 0, 0
--% if rule.index.command == "FT.SEARCH"
-- Before its fields a row has its key, and other parts.
local limit_at, parts, seen, is_whole, is_marked, is_shown = nil, 1, {}, true, false, true
rows, unit, strings = 10, {{ document_work }}, strings + 1
--% endif
for i = 1, #options do
  local word, at, width = unpack(options[i])
  if word == 'LIMIT' then
    first, rows = number(at + 1), number(at + 2)
--% if rule.index.command == "FT.SEARCH"
    limit_at = at
  elseif word == 'NOCONTENT' or word == 'RETURN' then
    if width < 2 then unit, seen.NOCONTENT = {{ hit_work }}, true end
    strings, is_shown, is_whole = strings + 2 * math.max(width - 1, 0), width > 1 or is_shown and not is_whole, false
    copies = math.max(copies, (width - 4) / 3)
  elseif word == 'HIGHLIGHT' or word == 'SUMMARIZE' then
    unit, is_marked = word == 'SUMMARIZE' and {{ summary_work }} or unit, true
  elseif word == 'EXPLAINSCORE' then
    strings = strings + #query
  elseif find(word, '^WITH[SP]') and not seen[word] then
    seen[word], parts, strings = true, parts + 1, strings + 1
  elseif word == 'INKEYS' then
    seen[word] = true
--% else
  elseif word == 'LOAD' or word == 'SORTBY' or word == 'GROUPBY' then
    if word == 'LOAD' then unit = {{ document_work }} end
    copies = copies + (width - 1 + (word == 'LOAD' and on_json and 2 or 0)) / 3
    strings = (word == 'GROUPBY' and 0 or strings) + 2 * (width - 1)
    if argv[at + 1] == '*' then strings = on_json and strings + 4 or math.huge end
  elseif word == 'FILTER' or word == 'REDUCE' or word == 'APPLY' or word == 'ADDSCORES' then
    strings = strings + (word == 'FILTER' and 0 or 2)
    if word == 'FILTER' or word == 'APPLY' then
      local text = string.lower(argv[at + 1])
      copies = copies + count(text, '%%s') + count(text, '[=<>][%s(]*@')
      for name in string.gmatch(text, '([%a_]+)%s*%(') do
        if find({{ text_functions }}, ' ' .. name .. ' ', 1, true) then copies = copies + 1 end
      end
    end
    -- Lists have values of many documents.
    if word == 'REDUCE' and find(argv[at + 1], '^[rRtT]') then lists = lists + 1 end
--% endif
  end
end
--% if rule.index.command == "FT.SEARCH"
if is_whole and on_json then strings, is_whole = strings + 4, false end
--% endif
local returned
local function bytes_of(number) return math.min(held, number * largest) * (1 + copies) * {{ byte_work }} end
local function estimated()
  local shown = math.min(rows, math.max(documents - first, 0))
  returned = shown * strings + (lists > 0 and lists * documents or 0)
  return math.max(math.min(first, documents) * {{ hit_work }} + shown * unit, returned * {{ string_units }}, bytes_of(lists > 0 and math.huge or math.max(shown, {{ timed_rows }})))
end
cost = estimated()
--% if rule.index.command == "FT.SEARCH"
if limit_at and cost > left then
  -- Few documents may match: a client may ask for as many as there are.
  local at = limit_at + shift + 1
  instead[at], instead[at + 1] = '0', '0'
  local found = redis.pcall(unpack(instead))
  instead[at], instead[at + 1] = argv[limit_at + 1], argv[limit_at + 2]
  -- An error is the command's own, but not that of a count that takes too long.
  documents = found.err and (find(found.err, 'imeout') and math.huge or 0) or tonumber(found[1]) or documents
  cost = estimated()
end
if is_shown and rows > 0 and cost <= left then
  -- Documents may have any number of fields, and any size.
  local found, wide = { unpack(instead) }, 0
  found[#found + 1] = 'NOCONTENT'
  found = redis.pcall(unpack(found))
  for i = 2, found.err and 0 or #found, parts do
    local fields = on_json and 0 or tonumber(redis.pcall('HLEN', found[i])) or math.huge
    wide = wide + strings + (is_whole and 2 * fields or 0)
    cost = math.max(cost, wide * {{ string_units }}, fields * {{ usage_work }})
    if cost > left then break end
    held = held + (tonumber(redis.pcall('MEMORY', 'USAGE', found[i], 'SAMPLES', '0') or 0) or math.huge)
    cost = math.max(cost, held * (is_marked and {{ marking_work }} or {{ byte_work }}) * (1 + copies))
  end
  if cost <= left and parts == 1 and not (is_marked or seen.NOCONTENT or seen.INKEYS) and found[2] and #found < 4000 then
    -- The same documents, without a second search; restore_reply has their number and order.
    restore = found
    local shown = #found - 1 .. ''
    if limit_at then instead[limit_at + shift + 1], instead[limit_at + shift + 2] = '0', shown end
    local narrowed = { instead[1], instead[2], instead[3], 'LIMIT', '0', shown, 'INKEYS', shown, unpack(found, 2) }
    for i = 4, #instead do narrowed[#narrowed + 1] = instead[i] end
    instead = narrowed
  end
end
--% else
local function weigh_bytes()
  -- The keys of the documents, without the steps: documents may have a field with the name `__key`.
  local most = math.floor(left / {{ string_units }})
  local listing = { 'FT.SEARCH', key, instead[3], 'NOCONTENT', 'LIMIT', '0', most .. '', 'TIMEOUT', instead[5], 'DIALECT', filter and '2' or '1' }
  for i = 1, #options do
    local word, at, width = unpack(options[i])
    if find(' VERBATIM INORDER SLOP TIMEOUT PARAMS DIALECT ', ' ' .. word .. ' ', 1, true) then
      for place = at + shift, at + shift + width do listing[#listing + 1] = instead[place] end
    end
  end
  local found = redis.pcall(unpack(listing))
  -- An error is the command's own.
  if found.err then instead, found = listing, { 0 } end
  if found[1] > most then held, largest = math.huge, math.huge end
  for i = 2, #found do
    if bytes_of({{ timed_rows }}) > left then break end
    local bytes = tonumber(redis.pcall('MEMORY', 'USAGE', found[i], 'SAMPLES', '0') or 0) or math.huge
    held, largest = held + bytes, math.max(largest, bytes)
  end
  cost = estimated()
end
local is_weighed, is_counted
for _ = 1, 2 do
  if not is_weighed and (copies >= 1 or cost <= left and returned > {{ compared_strings }}) then
    weigh_bytes()
    is_weighed = true
  end
  -- The time limit is looked at after some rows. To count groups takes these steps as well.
  if not is_counted and cost > left and bytes_of({{ timed_rows }}) <= left then
    -- Few groups may remain.
    local counting = { unpack(instead) }
    for word in string.gmatch('GROUPBY 0 REDUCE COUNT 0 AS n', '%S+') do counting[#counting + 1] = word end
    local found = redis.pcall(unpack(counting))
    rows = found.err and (find(found.err, 'imeout') and math.huge or 0) or found[2] and tonumber(found[2][2]) or 0
    cost, is_counted = estimated(), true
  end
end
--% endif
--% if batch_work
-- Counts of many denied searches take time, too.
spent = spent + (os.clock() - began) * 1e7
--% endif
