-- What a command that passed needs when its turn comes.
local entry
if mutates then
  entry = #ops + 1
  local spelled, before = command, #touched
  if first > last then
    -- No key: a channel, if anything.
    touched[before + 1] = key and #key .. ':' .. key .. ','
  end
  for at = first, last, step do
    local name = walked[at]
    if not name then break end
    touched[#touched + 1] = #name .. ':' .. name .. ','
  end
  if #touched ~= before + 1 then spelled = command .. ':' .. #touched - before end
  ops[entry] = spelled
end
passed[n] = { argv, command, key, reply_length, entry }
--% for limit in limits if limit.subject != "identity"
--% filter numbered(limit.number)
if subjects_n then
  for i = 1, #subjects_n do counted_n[subjects_n[i]] = kept_n[i] end
end
--% endfilter
--% endfor
