-- check_script: find the approved script, and check the declared keys: any grant on them is enough.
-- in:  digest, keys, argv
-- out: code, detail, value, key, command   set if the call is denied
--      script, reads, writes, deletes, recorded, only_reads, walked, first, last, stop
--% with batch = true, limits = byte_limits
--% include "authorize/batch_locals.lua"
--% endwith
local name_at, script = 3
stop = #argv
--% include "authorize/command_locals.lua"
walked, first, last = keys, 1, #keys
if false then
--% for script in scripts
elseif digest == {{ script.digest }} then
  script, reads, writes, deletes, recorded = {{ script.name }}, {{ script.reads }}, {{ script.writes }}, {{ script.deletes }}, {{ script.mutates }}
--% if script.only_reads
  only_reads = 1
--% endif
--% endfor
else
  code, detail, value, command = 'COMMAND_REFUSED', 'script', digest, 'EVALSHA:' .. digest
end
if code then break end
--% if cluster and cap_plans
-- Units for the bytes of its commands cannot be asked for while it runs.
if caps and caps[{{ cap_number("bytes_written") }}] then code, detail, value = 'COMMAND_REFUSED', 'script', digest break end
--% endif
if stop > {{ max_arguments + 3 }} or last > {{ max_arguments }} then
  code, detail, value = 'ARGS_TOO_MANY', 'arguments', math.max(stop - 3, last) .. ''
  break
end
for at = 1, last do
  key = keys[at]
--% with checks = declared, one_check = true, denied_last = false, any_grant = true
--% include "authorize/check_key.lua"
--% endwith
  if code then break end
end
if code then break end
key = nil
