-- read_create: collect the prefixes of an FT.CREATE, and deny it for an option that is not listed here.
-- in:  name_at, stop, argv, command, prefixes, find
-- out: code, detail, prefixes, value
--
-- TEMPORARY is not: the documents are deleted when such an index expires. Of several PREFIX the
-- server takes the last one.
local at = name_at + 2
while at <= stop do
  local word = #argv[at] < 32 and string.upper(argv[at]) or ''
  if word == 'SCHEMA' then break end
  local width
  if word == 'PREFIX' or word == 'STOPWORDS' then
    local count = tonumber(at < stop and string.match(argv[at + 1], '^%d%d?%d?$'))
    width = count and count + 1
    for i = at + 2, count and word == 'PREFIX' and at + width <= stop and at + width or 0 do
      prefixes[#prefixes + 1] = argv[i]
      if find(argv[i], '%z') then width = nil end
    end
    if count == 0 and word == 'PREFIX' then prefixes[#prefixes + 1] = '' end
  elseif find(',ON,LANGUAGE,LANGUAGE_FIELD,SCORE,SCORE_FIELD,PAYLOAD_FIELD,FILTER,INDEXALL,', ',' .. word .. ',', 1, true) then
    width = 1
  elseif find(',MAXTEXTFIELDS,NOOFFSETS,NOHL,NOFIELDS,NOFREQS,SKIPINITIALSCAN,', ',' .. word .. ',', 1, true) then
    width = 0
  end
  if not width or at + width > stop then
    code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
    break
  end
  at = at + width + 1
end
if not prefixes[1] then prefixes[1] = '' end
