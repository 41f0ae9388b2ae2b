-- read_options: read the options of a call of an index, each with its place and its number of words;
-- deny the call for one that is not listed.
-- in:  argv, name_at, stop, command, find
-- out: code, detail, options, value
local at, listed = name_at + 3, {{ rule.index.options }}
--% if rule.index.command == "FT.CREATE"
at = at - 1
--% endif
while at <= stop do
  local word = #argv[at] <= 32 and string.upper(argv[at]) or ''
  if word == 'SCHEMA' then break end
  local _, last = find(listed, ' ' .. word .. '=', 1, true)
  local width = last and find(word, '^[%u_]+$') and string.sub(listed, last + 1, last + 1)
  if width and not tonumber(width) then
    -- A count of words, which for REDUCE follows the name of a function.
    local count_at = width == 'r' and at + 2 or at + 1
    local text = count_at <= stop and argv[count_at] or ''
    local count = width == '*' and text == '*' and 0 or string.match(text, '^%d%d?%d?%d?$')
    width = count and count_at - at + count
  end
  if not width or at + width > stop then
    code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
    break
  end
  options[#options + 1] = { word, at, width + 0 }
  at = at + width + 1
end
