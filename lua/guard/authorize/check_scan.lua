-- check_scan: deny a SCAN whose last MATCH may list keys that are not granted.
-- in:  name_at, stop, argv, bindings
-- out: amount, code, detail, glob, key, matched, value
--
-- The text before the first special character of the glob must lie where keys are granted. Keys
-- that are found beyond that are removed from the reply, see filter_scan.
local glob = '*'
for at = name_at + 2, stop - 1, 2 do
  if find(argv[at], {{ option_pattern("MATCH") }}) then glob = argv[at + 1] end
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
--% if bound_tokens
if bindings and not code then
--% include "authorize/check_bound_scan.lua"
end
--% endif
