-- strings: fill the library of texts.
-- in:  strings, spend, made, size, sizes, counted, numeral, numerals, whole
-- out: strings
--
-- The work of a pattern in the worst case: each repetition that something follows may be tried at
-- every length, from every place, and each try may compare the whole pattern: a set is read item by
-- item. A reference to a capture compares as much as was captured.
local function match_work(text, pattern, unanchored)
  if type(pattern) ~= 'string' then pattern = tostring(pattern) end
  spend(8 + #pattern / 16)
  local captured = select(2, string.gsub(pattern, '%%%d', ''))
  local plain = string.gsub(pattern, '%%[^b]', 'x')
  plain = string.gsub(string.gsub(plain, '%)*$', ''), '[*+?-]$', '')
  local function count(what) return (select(2, string.gsub(plain, what, ''))) end
  local repeats, maybe = count('[*+-]') + count('%%b'), count('?')
  if unanchored or string.sub(pattern, 1, 1) ~= '^' then
    -- Without a repetition, most places fail at their first item.
    if repeats + maybe == 0 then spend(size(text) * #pattern / 20) else repeats = repeats + 1 end
  end
  local tries = (size(text) + 2) ^ repeats * 2 ^ maybe
  spend(1 + #pattern + size(text) / 64 + tries / 16 * math.max(1, #pattern / 16) * (1 + size(text) * captured / 64))
end
strings.len = counted(string.len, size)
strings.sub = counted(string.sub, function(text, from, to)
  numeral(from)
  numeral(to)
  return size(text)
end)
-- These go byte by byte.
for _, name in pairs({ 'lower', 'upper', 'reverse' }) do
  strings[name] = counted(string[name], function(text) return size(text) * 3 end)
end
strings.byte = function(text, from, to)
  spend(1 + (to and size(text) or 0) / 8)
  return string.byte(text, numeral(from), numeral(to))
end
strings.char = counted(string.char, function(...)
  numerals(...)
  return select('#', ...) * 8
end)
-- A number of many digits is computed digit by digit.
strings.format = counted(string.format, function(pattern, ...)
  local parts, bytes = { ... }, 8 * sizes(pattern, ...) + 512
  local is_precise = find(pattern, '%%[^%a]*%.%d%d')
  local has_fraction = is_precise or find(pattern, '%%[^%a%%]*[eEfgG]')
  for at = 1, select('#', ...) do
    local number = has_fraction and tonumber(parts[at])
    if number then
      number = math.abs(number)
      bytes = bytes + ((is_precise or not (number < 1e15 and (number > 1e-15 or number == 0))) and 8000 or 256)
    end
  end
  return bytes
end)
strings.rep = counted(string.rep, function(text, times) return math.max(1, size(text)) * math.max(0, whole(times) or 0) * 3 end)
strings.find = function(text, pattern, from, plain)
  -- A pattern without special characters is a plain search, too.
  if plain or not string.find(pattern, '[%^$*+?.(%[%%-]') then
    spend(1 + size(pattern) / 64 + size(text) * (1 + size(pattern) / 32) / 16)
  else
    match_work(text, pattern)
  end
  return made(string.find(text, pattern, numeral(from), plain))
end
strings.match = function(text, pattern, from)
  match_work(text, pattern)
  return made(string.match(text, pattern, numeral(from)))
end
strings.gmatch = function(text, pattern)
  -- In `gmatch` of Lua 5.1, `^` is a character.
  match_work(text, pattern, true)
  local next_match = string.gmatch(text, pattern)
  return function() return made(next_match()) end
end
strings.gsub = function(text, pattern, new, most)
  match_work(text, pattern)
  local found = new
  if type(new) == 'table' then found = function(name) return new[name] end end
  if type(found) == 'function' then
    local give = found
    found = function(...)
      local part = give(made(...))
      spend(2 + size(part) / 64)
      return part
    end
  else
    spend((size(text) + 1) * (size(new) + 1) / 16)
  end
  return made(string.gsub(text, pattern, found, numeral(most)))
end
