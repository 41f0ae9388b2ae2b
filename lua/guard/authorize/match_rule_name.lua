if false then
--% for names, rule in branch.commands
elseif false
--% for name in names
  or command == {{ name }}
--% endfor
then rule = {{ rule }}
--% endfor
end
