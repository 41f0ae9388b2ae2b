-- rule_body: apply the facts of one rule: where keys are, what is counted, how the reply is shaped.
-- in:  name_at, stop, argv, command, size, run_end
-- out: changes_first, changes_rest, check, code, deletes, detail, first, governs, last, lengthens,
--      reads, recorded, repeats, rest, restore, sent, step, value, waits, weighs, writes
--% if rule.missing is not none
code, detail, value = 'CLASS_NOT_GRANTED', 'class', {{ rule.missing }}
--% else
--% if rule.keys
--% include "authorize/find_keys.lua"
--% else
--% if rule.first != 1
first = name_at + {{ rule.first }}
--% endif
--% if rule.last == -1
last = stop
--% elif rule.last < 0
last = stop - {{ -1 - rule.last }}
--% elif rule.last != 1
last = name_at + {{ rule.last }}
--% endif
--% if rule.step != 1
step = {{ rule.step }}
--% endif
--% endif
--% if rule.check and not one_check
check = {{ rule.check }}
--% endif
--% if rule.check and checks_differ
rest = {{ rule.rest }}
--% endif
--% if "reads" in rule.counters
reads = true
--% endif
--% if "writes" in rule.counters
writes = true
--% endif
--% if "deletes" in rule.counters
deletes = true
--% endif
--% if rule.mutates
recorded = true
--% endif
--% if rule.id in repeating and rule.variant
-- Options may change the rule, so there must be none.
repeats = size == 3
--% elif rule.id in repeating
repeats = true
--% endif
--% if rule.changes_first
changes_first = true
--% endif
--% if rule.changes_rest
changes_rest = true
--% endif
--% for word in rule.refused_if
for at = name_at + {{ rule.options_start }}, stop do
  if find(argv[at], {{ option_pattern(word) }}) then
    code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. {{ word }}
  end
end
--% endfor
--% if rule.scan is not none
restore = true
--% include "authorize/check_scan.lua"
--% endif
--% if rule.channel
--% include "authorize/check_channel.lua"
--% endif
--% if rule.index
--% include "authorize/check_index.lua"
--% endif
--% if rule.weigh == "always" or rule.weigh == "content" and batch_work
weighs = true
--% elif rule.weigh == "count"
weighs = stop >= name_at + {{ rule.weigh_at }}
--% elif rule.weigh == "words"
weighs = stop - name_at > {{ rule.weigh_over }}
--% elif rule.weigh == "range"
weighs = not (find(argv[name_at + {{ rule.weigh_at }}] or '', '^%d?%d$') and find(argv[name_at + {{ rule.weigh_at + 1 }}] or '', '^%d?%d$'))
--% elif rule.weigh == "ranked"
-- Options may make scores of positions.
weighs = stop > name_at + {{ rule.weigh_at + 1 }} or not (find(argv[name_at + {{ rule.weigh_at }}] or '', '^%d?%d$') and find(argv[name_at + {{ rule.weigh_at + 1 }}] or '', '^%d?%d$'))
--% elif rule.weigh
-- A short path of names alone selects one value.
local path = argv[name_at + 2] or ''
weighs = stop > name_at + {{ rule.weigh_over }} or #path > {{ path_steps }} or find(path, '[^%w_.$]') ~= nil or find(path, '..', 1, true) ~= nil
--% if rule.weigh == "content"
if not weighs then
  local bytes = redis.pcall('MEMORY', 'USAGE', argv[name_at + 1] or '') or 0
  weighs = type(bytes) ~= 'number' or bytes * {{ string_work }} > {{ work_limit - asking_work - question_work }}
end
--% else
weighs = weighs or #(argv[name_at + 3] or '') + #argv[stop] > {{ spread_bytes }}
--% endif
--% endif
--% if rule.id in repeating and rule.lengthens
-- A step of 0 would never end.
local bytes = 0
for at = name_at + {{ rule.length_at }}, run_end or name_at + {{ rule.length_at }}, size > 2 and size - 2 or 1 do
  local length = #(argv[at] or '')
  bytes = bytes + length
  if length > {{ asked_bytes }} then lengthens = true end
end
if repeats then sent = bytes end
--% elif rule.lengthens == "argument"
lengthens = #(argv[name_at + {{ rule.length_at }}] or '') > {{ asked_bytes }}
--% elif rule.lengthens == "pairs"
for at = name_at + {{ rule.length_at }}, stop, 2 do
  if #argv[at] > {{ asked_bytes }} then lengthens = true end
end
--% elif rule.lengthens == "names"
for at = name_at + {{ rule.length_at }}, stop do
  if #argv[at] > {{ key_bytes }} then lengthens = true end
end
--% elif rule.lengthens
lengthens = true
--% endif
--% if rule.governs == "always" or rule.governs and remembering
governs = true
--% endif
--% if waiting and rule.waits is not none and rule.waits != "block"
waits = {{ rule.waits }}
--% endif
--% if rule.wide_integers
-- A wider integer comes back rounded, and cannot be read again: SET gives the old one.
for at = name_at + 2, stop do
  local width = tonumber(string.match(argv[at], '^[iu](%d+)') or 0)
  if width > 53 then
    code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' ' .. argv[at]
  end
end
--% endif
--% endif
