-- bound_search: deny a search that may take too much, and write the call that runs in its place.
-- in:  argv, name_at, stop, command, options, documents, left, filter, kinds, on_json
-- out: code, cost, detail, documents, instead, value
--
-- Forced options come directly after the query: after those of the caller, a wrong count could include them.
local query = name_at + 1 < stop and argv[name_at + 2] or ''
local function count(text, pattern) return select(2, string.gsub(text, pattern, '')) end
local function number(at) return tonumber(string.match(argv[at] or '', '^%-?%d+$')) or math.huge end
local broken
if #query > {{ max_query_bytes }} then
  -- It is not scanned, either.
  query, broken = '*', 'QUERY'
elseif #query > {{ max_word_bytes }} and find(query, "[wW]'") then
  broken = 'QUERY'
elseif find(query, '[*%%]') and find(string.gsub(string.gsub(query, '\\.', 'xx'), '[^%s|(){}%[%]\34]+', function(token) return #token > {{ max_word_bytes }} and '\0' or '' end), '%z') then
  broken = 'QUERY'
elseif count(query, '%*') + count(query, '%%') / 2 + count(query, "[wW]'") + 2 * count(query, '!=') + 2 * count(string.gsub(query, '[%w\\]%-', ''), '%-') > {{ max_expanded_terms }} then
  -- A negation visits all documents.
  broken = 'TERMS'
end
-- The dialect that modules begin with, whatever one is configured for; the last one of a call counts.
instead = { argv[name_at], argv[name_at + 1], query, 'TIMEOUT', {{ text(search_ms) }}, 'DIALECT', '1' }
--% if rule.index.filtered
if filter then
--% include "authorize/force_filter.lua"
end
--% endif
local shift = #instead - 2 - name_at
for at = name_at + 3, stop do instead[at + shift] = argv[at] end
local steps, params, has_lists = 0, {}, false
for i = 1, #options do
  local word, at, width = unpack(options[i])
  if width > {{ max_returned }} + 1 and (word == 'RETURN' or word == 'LOAD') then broken = 'FIELDS' end
--% if rule.index.filtered
  -- Scores count the words of all documents.
  if filter and (word == 'WITHSCORES' or word == 'EXPLAINSCORE' or word == 'ADDSCORES' or word == 'SCORER' and argv[at + 1] ~= 'DOCSCORE') then broken = word end
  if filter and word == 'DIALECT' then instead[at + 1 + shift] = '2' end
--% endif
  if word == 'TIMEOUT' and not (number(at + 1) > 0 and number(at + 1) <= {{ search_ms }}) then
    instead[at + 1 + shift] = {{ text(search_ms) }}
  elseif word == 'PARAMS' then
    for place = at + 2, at + width - 1, 2 do
      local name, text = argv[place], argv[place + 1]
      params[name] = text
      -- A long text is a vector: as a word with `*`, it stopped servers.
      if not find(name, '^[%w_]+$') or #text > {{ max_word_bytes }} and (find(query, "[wW]'") or count(query, '%$' .. name .. '%f[^%w_]') > count(query, '[%w_.]%s+%$' .. name .. '%f[%s%]]')) then broken = word end
    end
  elseif (word == 'SUMMARIZE' or word == 'HIGHLIGHT') and find(query, '[kK][nN][nN]') then
    broken = word
  elseif word == 'DIALECT' and not find(argv[at + 1], '^[123]$') then
    broken = word
  elseif (word == 'INKEYS' or word == 'FRAGS' or word == 'LEN') and not (number(at + 1) <= {{ max_inkeys }}) then
    broken = word
  elseif word == 'APPLY' or word == 'FILTER' or word == 'GROUPBY' or word == 'REDUCE' then
    if word == 'REDUCE' and find(string.upper(argv[at + 1]), '^RANDOM.SAMPLE$') and not (number(at + width) <= {{ max_inkeys }}) then steps = math.huge end
    -- Groups by lists are all combinations of their values.
    if word == 'GROUPBY' and has_lists then steps = math.huge end
    has_lists = has_lists or word == 'REDUCE' and find(argv[at + 1], '^[rRtT]') ~= nil
    steps = steps + 1
  end
end
local lower, nearest = string.lower(query), 0
local brackets = string.gsub(string.gsub(lower, '[^%w_@$%[]', ''), '%[+', '[')
-- `within`, `contains`, `intersects` and `disjoint`; each visits all shapes.
if count(brackets, '%[[cdiw]') > count(brackets, '%[inf') then broken = 'GEOSHAPE' end
if steps > {{ max_search_steps }} then broken = 'STEPS' end
for near in string.gmatch(query, '%[%s*[kK][nN][nN]%s+(%$?[%w_]+)%s+@') do
  nearest = nearest + 1
  local most = string.match(params[string.match(near, '^%$(.*)')] or near, '^%d+$')
  if not most or most + 0 > {{ max_neighbours }} then broken = 'KNN' end
end
if count(brackets, '%[knn') ~= nearest or count(brackets, '%[vector') > {{ max_vector_ranges }} then broken = 'KNN' end
-- The time limit of a search is looked at after batches.
if count(lower, 'batch_size') ~= count(lower, 'batch_size[%s:]+[1-9]%d') then broken = 'KNN' end
-- Without a query the arity is wrong, and that is the command's own error.
if name_at + 1 >= stop then instead = nil end
if code then
  -- By force_filter.
elseif broken then
  code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. broken
elseif left > {{ search_work }} then
  -- Without work left, nothing is counted.
--% include "authorize/estimate_search.lua"
end
