-- accept_item: remember what an allowed command of a batch needs when it runs, and add it to the
-- event.
-- in:  n, mend, command, argv, name_at, work, reads, writes, deletes, recorded, masked,
--      first, last, step, walked, told_as, told, subjects_N, counted_N, kept_N
-- out: entry, fields, mends, names, passed, passed_deletes, passed_reads, passed_writes, spent,
--      unheard, works
if mend then mends[n] = mend end
if command ~= argv[name_at] then names[n] = command end
passed = passed + 1
--% if plans or lengthening
spent = spent + work
if work > 0 then works[n] = work end
--% endif
if reads then passed_reads = passed_reads + 1 end
if writes then passed_writes = passed_writes + 1 end
if deletes then passed_deletes = passed_deletes + 1 end
if recorded then
  local name, touched, is_masked = command, key or '', false
--% if masks
  touched, is_masked = masked(touched)
--% endif
  if first < last then
    local parts = {}
    for at = first, last, step do
      local key, hidden = walked[at], false
      if key then
--% if masks
        key, hidden = masked(key)
--% endif
        parts[#parts + 1], is_masked = #key .. ':' .. key .. ',', is_masked or hidden
      end
    end
    if parts[2] then name, touched = command .. ':' .. #parts, table.concat(parts) end
  end
  entry[fields + 1], entry[fields + 2] = name, touched
  fields = fields + 2
--% if logs_arguments
--% include "record/log_arguments.lua"
  entry[fields + 1], entry[fields + 2] = told_as, told
  fields = fields + 2
--% endif
--% if masks
  hidden[n] = is_masked
--% endif
--% if images
--% include "record/list_changed_keys.lua"
--% endif
else
  unheard[n] = true
end
--% if vault
--% include "reply/prefix_keys.lua"
--% endif
--% for limit in limits if limit.subject != "identity"
--% filter suffix(limit.number)
if subjects_N then
  for i = 1, #subjects_N do counted_N[subjects_N[i]] = kept_N[i] end
end
--% endfilter
--% endfor
