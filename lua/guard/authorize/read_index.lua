-- read_index: read the prefixes of a search index, and how many documents it has.
-- in:  key, prefixes, find
-- out: code, detail, documents, prefixes, value
local info = redis.pcall('FT.INFO', key)
-- Words of the reply may be statuses, which are tables.
local function word(text) return type(text) == 'table' and text.ok or text end
if info.err then
  -- That of a missing index is the command's own error.
  local text = string.lower(info.err)
  if not find(text, 'unknown index') and not find(text, 'no such index') then code, detail, value = 'INDEX_NOT_GRANTED', 'index', key end
else
  local listed = { '' }
  for i = 1, #info, 2 do
    local name = word(info[i])
    if name == 'num_docs' then documents = tonumber(word(info[i + 1])) or documents end
    if name == 'index_definition' then
      for j = 1, #info[i + 1], 2 do
        if word(info[i + 1][j]) == 'prefixes' then listed = info[i + 1][j + 1] end
      end
    end
  end
  for i = 1, #listed do prefixes[#prefixes + 1] = word(listed[i]) end
  if not listed[1] then prefixes[#prefixes + 1] = '' end
end
