-- The keys are found by reading the arguments, as the server will.
walked, first, last = {}, 1, 0
--% for search in rule.keys
--% if search.kind == "range"
walked[1] = argv[{{ search.first + 4 }}]
--% elif search.kind == "numbered"
local counted = string.match(argv[{{ search.count_at + 4 }}] or '', '^%s*%+?(%d+)')
if counted then
  for at = {{ search.first + 4 }}, math.min({{ search.first + 4 - search.step }} + counted * {{ search.step }}, #argv), {{ search.step }} do
    walked[#walked + 1] = argv[at]
  end
end
--% elif search.kind == "option"
local option_at, stored = {{ search.start + 4 }}
while option_at < #argv do
  if false then
--% for word in search.words
  elseif find(argv[option_at], {{ option_pattern(word) }}) then
    option_at = option_at + 1
    stored = argv[option_at]
--% endfor
  end
  option_at = option_at + 1
end
if stored then
  walked[#walked + 1] = stored
--% for counter in rule.stored
--% filter spread("this_counter", [counter])
  this_counter = true
--% endfilter
--% endfor
  mutates = true
end
--% elif search.kind == "streams"
local option_at = 5
while option_at <= #argv do
  if find(argv[option_at], {{ option_pattern("STREAMS") }}) then
    for at = option_at + 1, option_at + math.floor((#argv - option_at) / 2) do
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
