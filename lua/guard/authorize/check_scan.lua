-- check_scan: deny a SCAN whose last MATCH may list keys that are not granted.
-- in:  name_at, stop, argv, command, bindings
-- out: amount, code, detail, glob, key, matched, places, value
--
-- The text before the first special character of the glob must lie where keys are granted. Keys
-- that are found beyond that are removed from the reply, see filter_scan.
local glob = '*'
--% if sealed
places = {}
--% endif
for at = name_at + 2, stop - 1, 2 do
  if find(argv[at], {{ option_pattern("MATCH") }}) then glob = argv[at + 1] end
--% if sealed
  if find(argv[at], {{ option_pattern("MATCH") }}) then places[#places + 1] = at + 1 end
--% endif
end
local matched = false
key = glob
--% with matchers = rule.scan.wholes
--% include "authorize/match_any.lua"
--% endwith
key = string.match(glob, '^[^*?%[\\]*')
--% with matchers = rule.scan.beginnings
--% include "authorize/match_any.lua"
--% endwith
key = glob
if not matched then code, detail, value = 'KEY_NOT_GRANTED', 'key', glob end
--% if sealed and cluster
-- Names in the vault may have a brace after the key.
if not code and glob ~= '*' and not find(glob, '[^\\]%*$') then code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' MATCH' end
--% endif
--% if bound_tokens
if bindings and not code then
--% include "authorize/check_bound_scan.lua"
end
--% endif
