-- authorize: find the rule of one command and check its keys, arguments and sizes.
-- in:  command, argv, name_at, stop, keys, count
-- out: code, detail, value, amount, reason, key   set if the command is denied
--      rule, walked, first, last, step, check, restore, reads, writes, deletes, recorded,
--      weighs, work, sent
--% cached_include "authorize/find_rule.lua" with name_at, dispatch, rare, containers
if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
--% cached_include "authorize/dispatch_rule.lua" with name_at, rules, often_ruled, one_check, checks_differ, waiting, asked_bytes, key_bytes, too_long, repeating, remembering, bound_tokens, index_excluded, checks_ahead, work_limit, search_ms, string_units, batch_work
if code then reason = reason or detail == 'class' and keys[count + 1] break end
-- Bytes are work. A name has a bound of its own, and each command of a run as many words.
--% filter offset(name_at)
--% if running
-- Those of a run of writes are added up before.
for at = name_at + 1, sent > 0 and name_at or {{ run_end }} do sent = sent + #argv[at] end
--% else
for at = name_at + 1, stop do sent = sent + #argv[at] end
--% endif
--% endfilter
if sent > {{ free_bytes }} * {{ taken }} then
  work = sent * (first > last and not key and {{ echo_byte_work }} or {{ byte_work }})
end
--% if batch and reading
if reads and passed_reads + {{ taken }} > {{ unasked_reads }} and find({{ reading }}, ',' .. command .. ',', 1, true) then weighs = true end
--% endif
--% if running
if times then
--% include "authorize/take_run.lua"
else
--% include "authorize/check_declared.lua"
end
if code then break end
--% elif not sandbox
--% include "authorize/check_declared.lua"
if code then break end
--% endif
for at = first, last, step do
  local name = walked[at]
  -- A key that is missing is a wrong arity, and that is the command's own error.
  if not name then break end
  key = name
--% include "authorize/check_key.lua"
  if code then break end
--% if checks_differ
  check = rest
--% endif
end
if code then break end
if {{ sized }} then
--% include "authorize/check_size.lua"
  if code then break end
end
--% if batch and images
--% include "authorize/estimate_images.lua"
if code then break end
--% endif
