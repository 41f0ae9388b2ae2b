-- check_vectors: deny fields of vectors that take much memory when the first document is indexed.
-- in:  argv, name_at, stop, command, find
-- out: code, detail, value
local dimensions = 0
for at = name_at + 2, stop - 1 do
  local word, number = string.upper(string.sub(argv[at], 1, 32)), tonumber(string.match(argv[at + 1], '^%Z*')) or 0
  if word == 'DIM' then dimensions = dimensions + math.max(number, 0) end
  if dimensions > {{ most_dimensions }} or number > {{ most_of_vectors }} and find(' BLOCK_SIZE M EF_CONSTRUCTION EF_RUNTIME ', ' ' .. word .. ' ', 1, true) then
    code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. word
  end
end
