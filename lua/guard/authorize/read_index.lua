-- read_index: read the prefixes of a search index, how many documents it has, and the types of fields.
-- in:  key, prefixes, kinds, filter, find
-- out: code, detail, documents, kinds, on_json, prefixes, value
local info = redis.pcall('FT.INFO', key)
-- Words of the reply may be statuses, which are tables.
local function word(text) return type(text) == 'table' and text.ok or text end
-- With a filter, no count of all documents may show.
if filter then documents = math.huge end
if info.err then
  -- That of a missing index is the command's own error.
  local text = string.lower(info.err)
  if not find(text, 'unknown index') and not find(text, 'no such index') then code, detail, value = 'INDEX_NOT_GRANTED', 'index', key end
else
  local listed = { '' }
  for i = 1, #info, 2 do
    local name = word(info[i])
    if name == 'num_docs' and not filter then documents = tonumber(word(info[i + 1])) or documents end
--% if rule.index.filtered
    for j = 1, filter and name == 'attributes' and #info[i + 1] or 0 do
      local words = info[i + 1][j]
      kinds[word(words[4])] = word(words[6])
      for k = 7, #words do
        -- A tag that is split within names is not that of one agent.
        if word(words[k]) == 'SEPARATOR' and find(word(words[k + 1] or ''), '[%w_.@-]') then
          kinds[word(words[4])] = ''
          break
        end
        if word(words[k]) == 'CASESENSITIVE' then kinds[word(words[4])] = 'TAG!' end
      end
    end
--% endif
    if name == 'index_definition' then
      for j = 1, #info[i + 1], 2 do
        if word(info[i + 1][j]) == 'prefixes' then listed = info[i + 1][j + 1] end
        if word(info[i + 1][j]) == 'key_type' then on_json = word(info[i + 1][j + 1]) == 'JSON' end
      end
    end
  end
  for i = 1, #listed do prefixes[#prefixes + 1] = word(listed[i]) end
  if not listed[1] then prefixes[#prefixes + 1] = '' end
end
