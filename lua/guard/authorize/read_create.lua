-- read_create: collect the prefixes of an FT.CREATE. Of several PREFIX the server takes the last.
-- in:  argv, options, prefixes, command, find, bindings, made
-- out: code, detail, prefixes, value
for i = 1, #options do
  local word, at, width = unpack(options[i])
  for place = at + 2, word == 'PREFIX' and at + width or 0 do
    prefixes[#prefixes + 1] = argv[place]
    if find(argv[place], '%z') then code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' PREFIX' end
  end
  if word == 'PREFIX' and width == 1 then prefixes[#prefixes + 1] = '' end
end
if not prefixes[1] then prefixes[1] = '' end
do
  -- A write of a document takes as long as it has indexes.
  local reply = redis.pcall('FT._LIST')
  if reply.err then code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' INDEXES' end
--% with index_listed = rule.index.names
--% include "reply/filter_indexes.lua"
--% endwith
--% if checks_ahead
  for name in pairs(made) do reply[#reply + 1] = name end
--% endif
  if #reply >= {{ max_indexes }} then code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' INDEXES' end
end
