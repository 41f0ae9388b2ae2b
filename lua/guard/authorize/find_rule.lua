-- find_rule: find the number of the command's rule; a sub-command joins the command's name.
-- in:  command, argv, name_at, stop
-- out: rule, command
--% filter offset(name_at)
local length = #command
if false then
--% for branch in dispatch
elseif length == {{ branch.length }} then
--% include "authorize/match_rule_name.lua"
--% endfor
end
if not rule then
  -- A function of its own, as in dispatch_rule.
  rule, command = (function(command)
    -- Names of one length in one string, a record each: a constant is marked by the collector,
    -- and made when the script is loaded, for every name that stands alone.
    local length, rule, records = #command
    if false then
--% for branch in rare
    elseif length == {{ branch.length }} then records = {{ records_of(branch) }}
--% endfor
    end
    local at = records and find(records, command, 1, true)
    -- A match across two records is not a name.
    while at and (at - 1) % (length + {{ rule_digits }}) ~= 0 do at = find(records, command, at + 1, true) end
    if at then rule = tonumber(string.sub(records, at + length, at + length + {{ rule_digits - 1 }})) end
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
