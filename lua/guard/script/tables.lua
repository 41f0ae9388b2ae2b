-- tables: make the library of tables.
-- in:  spend, size
-- out: tables
tables = {}
tables.concat = function(list, between, from, to)
  for at = from or 1, to or #list do spend(1 + (size(list[at]) + size(between or '')) / 64) end
  return table.concat(list, between, from, to)
end
tables.getn = table.getn
tables.insert = function(list, ...)
  local place = select('#', ...) > 1 and tonumber((...)) or #list
  spend(1 + math.max(0, #list - place) / 16)
  return table.insert(list, ...)
end
tables.maxn = function(list)
  local most = 0
  for name in pairs(list) do
    spend(1)
    if type(name) == 'number' and name > most then most = name end
  end
  return most
end
tables.remove = function(list, ...)
  spend(1 + math.max(0, #list - (tonumber((...)) or #list)) / 16)
  return table.remove(list, ...)
end
-- Without a count, a list in the worst order takes the square of its length.
tables.sort = function(list, before)
  before = before or function(one, other) return one < other end
  return table.sort(list, function(one, other)
    spend(1)
    return before(one, other)
  end)
end
