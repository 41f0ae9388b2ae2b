-- force_filter: make a search return documents with certain values alone.
-- in:  filter, kinds, query, instead, made, key
-- out: amount, broken, code, detail, instead, reason, value
--
-- A number is an option of its own. A tag, or in an aggregation any value, stands beside the query in
-- parentheses, which the query must not leave; an aggregation begins with the same as a step.
local wraps, is_missing = {}, not next(kinds)
--% if checks_ahead
-- The error of a missing index is the command's own, but an earlier command may make it.
is_missing = is_missing and not made[key]
--% endif
if not filter[1] then code, detail, value = 'INDEX_NOT_GRANTED', 'index', key end
for i = 1, #filter, 2 do
  local field, text = filter[i], filter[i + 1]
  local kind = kinds[field]
  local is_number = kind == 'NUMERIC' and #text < 16 and (text == '0' or find(text, '^%-?[1-9]%d*$'))
  local why = text == '' and 'unbound' or not find(text, '^[%w_.@-]+$') and 'value'
  if not (why or is_missing or is_number or kind == 'TAG!') then
    -- Other tags are equal in any case.
    why = kind ~= 'TAG' and 'field' or text ~= string.lower(text) and 'case'
  end
  if why and not code then code, detail, value, amount, reason = 'INDEX_NOT_GRANTED', 'index', key, ' reason=' .. why, why end
--% if rule.index.command == "FT.AGGREGATE"
  if is_number then wraps[#wraps + 1] = '@' .. field .. ':[' .. text .. ' ' .. text .. ']' end
  for _, item in ipairs({ 'LOAD', '1', '@' .. field, 'FILTER', '@' .. field .. '==' .. (is_number and text or "'" .. text .. "'") }) do instead[#instead + 1] = item end
--% else
  if is_number then
    for _, item in ipairs({ 'FILTER', field, text, text }) do instead[#instead + 1] = item end
  end
--% endif
  if not is_number then wraps[#wraps + 1] = '@' .. field .. ':{' .. string.gsub(text, '[^%w]', '\\%0') .. '}' end
end
instead[#instead + 1], instead[#instead + 2] = 'DIALECT', '2'
--% if rule.index.command == "FT.SEARCH"
-- The order by any other score depends on words of hidden documents.
instead[#instead + 1], instead[#instead + 2] = 'SCORER', 'DOCSCORE'
--% endif
local before, near = string.match(query, '^(.-)(=>%s*%[%s*[kK][nN][nN][^%[%]]*%]%s*)$')
before = before or query
-- These find the words of all documents, up to a number.
local plain = string.gsub(before, '\\.', 'x')
if not broken and (find(plain, '[wW]\39') or find(plain, '%%') or find(plain, '[^%s(|{]%*') or find(plain, '%*[^%s)|}]')) then broken = 'EXPANSIONS' end
if wraps[1] and not find(before, '^%s*%*%s*$') then
  local cut = 1
  local rest = string.gsub(plain, find(plain, '\34') and '\34[^\34]*\34' or "'[^']*'", 'x')
  if find(rest, "[\\\39\34%z]") or count(rest, '=>') ~= count(rest, '=>%s*{') or not find(rest, '%S') then broken = 'BRACKETS' end
  -- Exclusive bounds of ranges.
  rest = string.gsub(string.gsub(rest, '%[%s*%(([%w+.-]+)%s', '[%1 '), '%s%(([%w+.-]+)%s*%]', ' %1]')
  for _ = 1, 64 do
    if cut < 1 then break end
    local a, b, c
    rest, a = string.gsub(rest, '%([^][(){}]*%)', 'x')
    rest, b = string.gsub(rest, '{[^][(){}]*}', 'x')
    rest, c = string.gsub(rest, '%[[^][(){}]*%]', 'x')
    cut = a + b + c
  end
  if find(rest, '[][(){}]') then broken = 'BRACKETS' end
  wraps[#wraps + 1] = '(' .. before .. ')'
end
if wraps[1] then instead[3] = '(' .. table.concat(wraps, ' ') .. ')' .. (near or '') end
