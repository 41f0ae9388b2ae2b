local length = #command
if false then
--% for branch in dispatch
elseif length == {{ branch.length }} then
  if false then
--% for names, rule in branch.commands
  elseif false
--% for name in names
    or command == {{ name }}
--% endfor
  then rule = {{ rule }}
--% endfor
  end
--% endfor
end
