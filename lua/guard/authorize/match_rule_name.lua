-- match_rule_name: set the rule of a command among names of one length.
-- in:  command
-- out: rule
if false then
--% for names, rule in branch.commands
elseif false
--% for name in names
  or command == {{ name }}
--% endfor
then rule = {{ rule }}
--% endfor
end
