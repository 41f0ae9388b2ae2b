--% with grouping = grouped(matchers)
--% with matchers = grouping.singly
--% include "partials/match_list.lua"
--% endwith
--% if grouping.length
if not matched then
  local beginning = string.sub(key, 1, {{ grouping.length }})
  if false then
--% for beginning, matchers in grouping.groups
  elseif beginning == {{ beginning }} then
--% include "partials/match_list.lua"
--% endfor
  end
end
--% endif
--% endwith
