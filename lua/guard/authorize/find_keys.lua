-- find_keys: find the keys of a command by reading its arguments, as the server will.
-- in:  name_at, stop, argv, command
-- out: claim_at, code, detail, first, group_at, last, recorded, COUNTS_CALL, value,
--      waits, walked
walked, first, last = {}, 1, 0
--% for search in rule.keys
--% if search.kind == "range"
if name_at + {{ search.first }} <= stop then walked[1] = argv[name_at + {{ search.first }}] end
--% elif search.kind == "numbered"
local how_many = string.match(argv[name_at + {{ search.count_at }}] or '', '^%s*%+?(%d+)')
if how_many then
  local first_key = name_at + {{ search.first }}
  for at = first_key, math.min(first_key + (how_many - 1) * {{ search.step }}, stop), {{ search.step }} do
    walked[#walked + 1] = argv[at]
  end
end
--% elif search.kind == "option"
local option_at, stored = name_at + {{ search.start }}
while option_at < stop do
  if false then
--% for word in search.words
  elseif find(argv[option_at], {{ option_pattern(word) }}) then
    option_at = option_at + 1
    stored = argv[option_at]
--% endfor
--% for word in search.skipped
  elseif find(argv[option_at], {{ option_pattern(word) }}) then
    option_at = option_at + 1
--% endfor
  end
  option_at = option_at + 1
end
if stored then
  walked[#walked + 1] = stored
--% for counter in rule.stored
--% filter expand("COUNTS_CALL", [counter])
  COUNTS_CALL = true
--% endfilter
--% endfor
  recorded = true
end
--% elif search.kind == "streams"
local option_at = name_at + 1
while option_at <= stop do
  if find(argv[option_at], {{ option_pattern("STREAMS") }}) then
    for at = option_at + 1, option_at + math.floor((stop - option_at) / 2) do
      walked[#walked + 1] = argv[at]
    end
    break
--% for word, arguments in search.options
  elseif find(argv[option_at], {{ option_pattern(word) }}) then
--% if waiting and word == "BLOCK"
    waits = 'block'
--% elif waiting and word == "GROUP"
    group_at = option_at + 1
--% elif waiting and word == "CLAIM"
    claim_at = option_at + 1
--% endif
    option_at = option_at + {{ arguments + 1 }}
--% endfor
  else
    -- Behind an option of a later server, STREAMS may be its value.
    code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[option_at]
    break
  end
end
--% endif
--% endfor
last = #walked
