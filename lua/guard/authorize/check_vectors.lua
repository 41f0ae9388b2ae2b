-- check_vectors: deny fields of vectors, suffixes, words and paths that take much for one document.
-- in:  argv, name_at, stop, command, find
-- out: code, detail, value
local sums, is_schema, broken = {}, command == 'FT.ALTER', stop - name_at > {{ max_index_words }} and 'WORDS'
local function upper(at) return string.upper(string.sub(argv[at] or '', 1, 32)) end
for at = name_at + 2, stop do
  local word, text, kind = upper(at), argv[at], upper(at + 1)
  is_schema = is_schema or word == 'SCHEMA'
  if not is_schema then
    -- By read_options.
  elseif #text > {{ max_word_bytes }} then
    broken = 'WORDS'
  elseif find(text, '%z') or find(text, {{ long_place }}) or find(text, '..', 1, true) or find(text, '^[@%s]*%$.*[?,]') then
    broken = 'FIELDS'
  elseif word == 'WITHSUFFIXTRIE' then
    -- 20 KB of tags took 45 MB as suffixes.
    broken = word
  elseif word == 'VECTOR' and (kind == 'FLAT' or kind == 'HNSW') then
    local count = string.match(argv[at + 2] or '', '^[1-9]%d?$')
    if not count then broken = word end
    for place = at + 3, at + 2 + (count or 0), 2 do
      local name, number = upper(place), string.match(argv[place + 1] or '', '^%d+$')
      local most = find(name, '^[%u_]+$') and string.match({{ vector_options }}, ' ' .. name .. '=(%d*) ')
      sums[name] = (sums[name] or 0) + (number or math.huge)
      if not most then broken = word elseif most ~= '' and sums[name] > most + 0 then broken = name end
    end
  elseif word == 'VECTOR' and not find(' AS TEXT TAG NUMERIC GEO GEOSHAPE VECTOR ', ' ' .. kind .. ' ', 1, true) then
    -- A field may have the name.
    broken = word
  end
end
if broken then code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. broken end
