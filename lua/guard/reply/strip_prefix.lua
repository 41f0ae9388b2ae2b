-- strip_prefix: remove the vault prefix from keys in a reply.
-- in:  mend
-- out: reply
if reply.err then
  -- Done above, before it was recorded.
elseif mend == 'named' then
  -- The first of its words is the key that had something.
  if reply[1] then reply[1] = {{ logical("reply[1]") }} end
elseif mend == 'streams' then
  for i = 1, #reply do reply[i][1] = {{ logical("reply[i][1]") }} end
elseif mend == 'anywhere' then
  -- A module's command, of which it is not known where it names keys.
  local function cleared(said)
    if type(said) == 'string' then return ({{ without_vault("said") }}) end
    if type(said) ~= 'table' then return said end
    for name, value in pairs(said) do said[name] = cleared(value) end
    return said
  end
  reply = cleared(reply)
end
