-- Before the commands, so that there is no mutation without its event.
if ops[1] then
  local event
--% with op = name("table.concat(ops, ',')"), field = "keys", touched = name("table.concat(touched)")
--% include "partials/append.lua"
--% endwith
  batch_event = event
end
