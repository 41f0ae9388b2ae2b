-- What a command that passed needs when its turn comes stands in front of its name.
argv[1], argv[2], argv[3] = false, reply_length or false, command
if mutates then
  changed = changed + 1
  argv[1] = changed
  local name, touched = command, key or ''
  if first < last then
    local parts = {}
    for at = first, last, step do
      if walked[at] then parts[#parts + 1] = #walked[at] .. ':' .. walked[at] .. ',' end
    end
    if parts[2] then name, touched = command .. ':' .. #parts, table.concat(parts) end
  end
  event[#event + 1] = name
  event[#event + 1] = touched
end
passed[n] = argv
--% for limit in limits if limit.subject != "identity"
--% filter numbered(limit.number)
if subjects_n then
  for i = 1, #subjects_n do counted_n[subjects_n[i]] = kept_n[i] end
end
--% endfilter
--% endfor
