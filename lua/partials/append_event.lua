-- Before the command, so that there is no mutation without its event.
if mutates then
  local field, touched = 'key', key or ''
  if count > 1 then
    local parts = {}
    for i = 1, #keys do parts[i] = #keys[i] .. ':' .. keys[i] .. ',' end
    field, touched = 'keys', table.concat(parts)
  end
--% with op = name("command"), field = name("field"), touched = name("touched")
--% include "partials/append.lua"
--% endwith
end
