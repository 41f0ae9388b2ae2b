-- What a command that passed needs when its turn comes, and its part of the event.
if typed then typeds[n] = true end
if mend then mends[n] = mend end
if command ~= argv[name_at] then names[n] = command end
if mutates then
  local name, touched = command, key or ''
  if first < last then
    local parts = {}
    for at = first, last, step do
      if walked[at] then parts[#parts + 1] = #walked[at] .. ':' .. walked[at] .. ',' end
    end
    if parts[2] then name, touched = command .. ':' .. #parts, table.concat(parts) end
  end
  event[fields + 1], event[fields + 2] = name, touched
  fields = fields + 2
else
  unheard[n] = true
end
--% for limit in limits if limit.subject != "identity"
--% filter numbered(limit.number)
if subjects_n then
  for i = 1, #subjects_n do counted_n[subjects_n[i]] = kept_n[i] end
end
--% endfilter
--% endfor
