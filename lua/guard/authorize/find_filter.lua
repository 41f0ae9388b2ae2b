-- find_filter: find the fields and values that the policy forces on the searches of an index.
-- in:  key, bindings, record
-- out: filter, matched
do
  local amount, code, detail, value
--% with indexes = rule.index.names
--% include "authorize/match_index.lua"
--% endwith
  filter = code and {}
end
-- Without a value to compare with, the guard denies.
--% for item in rule.index.filtered
if filter and not filter[1] then
  local amount, code, detail, value
--% with indexes = [item.name]
--% include "authorize/match_index.lua"
--% endwith
  if not code then
--% for field, text, capture in item.where
    filter[#filter + 1] = {{ field }}
--% if capture
    filter[#filter + 1] = bindings and string.match(record, {{ capture }}, bindings_at) or ''
--% else
    filter[#filter + 1] = {{ text }}
--% endif
--% endfor
  end
end
--% endfor
