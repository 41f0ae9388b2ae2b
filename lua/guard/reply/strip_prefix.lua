-- strip_prefix: remove the vault prefix from keys in a reply.
-- in:  restore
-- out: reply
if reply.err then
  -- Done above, before it was recorded.
elseif restore == 'named' then
  -- The first of its words is the key that had something.
  if reply[1] then reply[1] = {{ logical("reply[1]") }} end
elseif restore == 'streams' then
  for i = 1, #reply do reply[i][1] = {{ logical("reply[i][1]") }} end
elseif restore == 'anywhere' then
  -- A module's command, of which it is not known where it names keys.
  local function cleared(part)
    if type(part) == 'string' then return ({{ without_vault("part") }}) end
    if type(part) ~= 'table' then return part end
    for name, value in pairs(part) do part[name] = cleared(value) end
    return part
  end
  reply = cleared(reply)
end
