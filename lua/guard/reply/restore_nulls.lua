-- restore_nulls: restore nulls in a reply: they became nil, which ends Lua's arrays and is missing
-- in its maps.
-- in:  mend
-- out: reply
--
-- See compiler/resp.py. A value that is no reply, such as a function, is sent as null.
local null = find
if mend == 'entries' then
  -- Entries of the consumer's history that were deleted since.
  for _, entries in pairs(reply.map or {}) do
    for i = 1, #entries do
      if entries[i][2] == nil then entries[i][2] = null end
    end
  end
elseif mend == 'info' then
  local info, groups = reply.map, reply
  if info then
    groups = info.groups
    if not info.entries then
      info['first-entry'], info['last-entry'] = info['first-entry'] or null, info['last-entry'] or null
      groups = {}
    end
  end
  for i = 1, #groups do
    local group = groups[i].map
    group['entries-read'], group.lag = group['entries-read'] or null, group.lag or null
  end
else
  for i = 1, mend do
    if reply[i] == nil then reply[i] = null end
  end
end
