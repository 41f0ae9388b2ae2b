-- check_vectors: deny fields of vectors, suffixes and paths that take much for one document.
-- in:  argv, name_at, stop, command, find
-- out: code, detail, value
local dimensions, is_schema = 0, false
for at = name_at + 2, stop do
  local word, number = string.upper(string.sub(argv[at], 1, 32)), at < stop and tonumber(string.match(argv[at + 1], '^%-?%d+')) or 0
  is_schema = is_schema or word == 'SCHEMA'
  if is_schema and (find(argv[at], '^%$.*[?,]') or find(argv[at], '^%$.*%.%.')) then
    code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' FIELDS'
  end
  if word == 'DIM' then dimensions = dimensions + math.max(number, 0) end
  -- 20 KB of tags took 45 MB as suffixes.
  if word == 'WITHSUFFIXTRIE' or word == 'DIM' and dimensions > {{ most_dimensions }} or number > {{ most_of_vectors }} and find(' BLOCK_SIZE M EF_CONSTRUCTION EF_RUNTIME ', ' ' .. word .. ' ', 1, true) then
    code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. word
  end
end
