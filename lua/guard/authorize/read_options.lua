-- read_options: read the options of a call of an index, each with its place and its number of words;
-- deny the call for one that is not listed, and for words that may take too much.
-- in:  argv, name_at, stop, command, find
-- out: code, detail, options, value
local at, listed, formats, called, broken = name_at + 3, {{ rule.index.options }}, 0, 0, nil
--% if rule.index.command == "FT.CREATE"
at = at - 1
--% endif
while at <= stop do
  local word = #argv[at] <= 32 and string.upper(argv[at]) or ''
  if word == 'SCHEMA' then break end
  local width, kind
  if find(word, '^[%u_]+$') then width, kind = string.match(listed, ' ' .. word .. '=(.)(.)') end
  if width and not tonumber(width) then
    -- A count of words, which for REDUCE follows the name of a function. A module reads `010` as 8.
    local count_at = width == 'r' and at + 2 or at + 1
    local text = count_at <= stop and argv[count_at] or ''
    local count = width == '*' and text == '*' and 0 or (text == '0' and 0 or string.match(text, '^[1-9]%d?%d?%d?$'))
    width = count and count_at - at + count
  end
  if not width or at + width > stop or #options == {{ max_search_options }} then
    broken = width and at + width <= stop and 'STEPS' or argv[at]
    break
  end
  if kind == 'p' and width + 0 > {{ max_search_options }} then broken = word end
  for place = at + 1, at + width do
    local text = argv[place]
    if #text > (kind == 'p' and {{ max_param_bytes }} or kind == 'x' and {{ max_expression_bytes }} or kind == 'm' and {{ max_mark_bytes }} or {{ max_word_bytes }}) then
      broken = kind == 'x' and 'STEPS' or 'WORDS'
    elseif kind == 'x' then
      text = string.lower(text)
      local calls = select(2, string.gsub(text, 'format%s*%(', ''))
      formats = formats + calls
      if formats > 1 or calls > 0 and select(2, string.gsub(text, '%%', '')) > {{ max_formatted }} then broken = 'STEPS' end
      for name, open in string.gmatch(text, '([^-%s+*/%%^,!<>=&|\39\34()]+)%s*(%(?)') do
        -- Each call copies its argument, which may be a field of 1 MB.
        called = open ~= '' and called + 1 or called
        if called > {{ max_calls }} or open ~= '' and not find({{ functions }}, ' ' .. name .. ' ', 1, true) then broken = 'STEPS' end
      end
    elseif kind == 'd' and not (find(text, '^%d+$') and text + 0 <= {{ max_rows }}) then
      broken = 'ROWS'
    elseif kind == ' ' and (find(text, '%z') or find(text, {{ long_place }}) or find(text, '..', 1, true) or find(text, '^[@%s]*%$.*[?,]')) then
      broken = 'FIELDS'
    end
  end
  options[#options + 1] = { word, at, width + 0 }
  at = at + width + 1
end
if broken then code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. broken end
