-- strings: fill the library of texts.
-- in:  strings, spend, size, sizes, counted
-- out: strings
--
-- The work of a pattern in the worst case: each repetition that something follows may be tried at
-- every length, from every place.
local function match_work(text, pattern)
  local plain = string.gsub(pattern, '%%[^b]', 'x')
  plain = string.gsub(string.gsub(plain, '%)*$', ''), '[*+?-]$', '')
  local function count(what) return (select(2, string.gsub(plain, what, ''))) end
  local repeats, maybe = count('[*+-]') + count('%%b'), count('?')
  if repeats > 0 and string.sub(pattern, 1, 1) ~= '^' then repeats = repeats + 1 end
  spend(1 + #pattern + size(text) / 64 + (size(text) + 2) ^ repeats * 2 ^ maybe / 20)
end
for _, name in pairs({ 'len', 'lower', 'upper', 'reverse', 'sub' }) do strings[name] = counted(string[name], size) end
strings.byte = function(text, from, to)
  spend(1 + (to and size(text) or 0) / 8)
  return string.byte(text, from, to)
end
strings.char = counted(string.char, function(...) return select('#', ...) * 8 end)
strings.format = counted(string.format, function(...) return 4 * sizes(...) + 512 end)
strings.rep = counted(string.rep, function(text, times) return size(text) * math.max(0, tonumber(times) or 0) end)
strings.find = function(text, pattern, from, plain)
  if plain then
    spend(1 + size(text) * (1 + size(pattern) / 16) / 64)
  else
    match_work(text, pattern)
  end
  return string.find(text, pattern, from, plain)
end
for _, name in pairs({ 'match', 'gmatch' }) do
  strings[name] = function(text, pattern, from)
    match_work(text, pattern)
    return string[name](text, pattern, from)
  end
end
strings.gsub = function(text, pattern, new, most)
  match_work(text, pattern)
  local found = new
  if type(new) == 'table' then found = function(name) return new[name] end end
  if type(found) == 'function' then
    local give = found
    found = function(...)
      local part = give(...)
      spend(1 + size(part) / 64)
      return part
    end
  else
    spend((size(text) + 1) * (size(new) + 1) / 32)
  end
  return string.gsub(text, pattern, found, most)
end
