--% filter placed(name_at)
local length = #command
if false then
--% for branch in dispatch
elseif length == {{ branch.length }} then
--% include "partials/name_rule.lua"
--% endfor
end
if not rule then
  -- A function of its own, as in apply_rule.
  rule, command = (function(command)
    local length, rule = #command
    if false then
--% for branch in rare
    elseif length == {{ branch.length }} then
--% include "partials/name_rule.lua"
--% endfor
    end
    if rule then
      -- Most commands are not sub-commands.
--% for container in containers
    elseif command == {{ container.name }} then
      local subcommand = string.upper(name_at < stop and argv[name_at + 1] or '')
      command = command .. ' ' .. subcommand
      if false then
--% for names, rule in container.commands
      elseif false
--% for name in names
        or subcommand == {{ name }}
--% endfor
      then rule = {{ rule }}
--% endfor
      end
--% endfor
    end
    return rule, command
  end)(command)
end
--% endfilter
