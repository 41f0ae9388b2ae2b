-- tables: make the library of tables.
-- in:  spend, made, tick, steps, size, key_of, whole
-- out: tables
tables = {}
tables.concat = function(list, between, from, to)
  from, to = whole(from) or 1, whole(to) or #list
  for at = from, to do
    local part = list[at]
    tick((type(part) == 'number' and 4 or 2) + (size(part) + size(between or '')) / 40)
  end
  return made(table.concat(list, between, from, to))
end
tables.getn = table.getn
tables.insert = function(list, ...)
  local place = select('#', ...) > 1 and key_of(whole((...))) or #list
  tick(1 + math.max(0, #list - place) / 8)
  return table.insert(list, ...)
end
tables.maxn = function(list)
  local most = 0
  spend(steps / 80)
  for name in pairs(list) do
    tick(1)
    if type(name) == 'number' and name > most then most = name end
  end
  return most
end
tables.remove = function(list, ...)
  tick(1 + math.max(0, #list - (whole((...)) or #list)) / 8)
  return table.remove(list, ...)
end
-- Without a count, a list in the worst order takes the square of its length.
tables.sort = function(list, before)
  before = before or function(one, other) return one < other end
  return table.sort(list, function(one, other)
    tick(1 + size(one) / 16)
    return before(one, other)
  end)
end
