-- One command against the rules: sets code if it is refused. What it takes of the limits is
-- taken when all of them were looked at, and not yet written.
--
-- The command's name stands at name_at, its last argument at stop; in a batch others follow.
local rule, check, typed, mend
-- The keys are walked[first], walked[first + step] and so on, up to walked[last].
--% filter placed(name_at)
local walked, first, last, step = argv, name_at + 1, name_at + 1, 1
--% endfilter
--% if sealed
-- Of the keys in argv, where a walk does not give them.
local places
--% endif
local reads, writes, deletes, recorded
--% if checks_differ
local rest
--% endif
--% if images
local changes_first, changes_rest
--% endif
--% if plans or lengthening
local weighs, lengthens
local work = 0
--% endif
--% if waiting
local waits, group_at, claim_at
--% endif
--% for limit in limits
--% filter numbered(limit.number)
--% if limit.subject != "identity"
local subjects_n, kept_n
--% elif limit.slot.kind == "ring"
local place_n
--% endif
--% endfilter
--% endfor
repeat
--% share "authorize/find_rule.lua" of name_at, dispatch, rare, containers
  if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
--% share "authorize/dispatch_rule.lua" of name_at, rules, often_ruled, one_check, checks_differ, waiting, sealed, least_bytes
  if code then break end
--% if batch and reading
  if passed_reads >= {{ unasked_reads }} and find({{ reading }}, ',' .. command .. ',', 1, true) then weighs = true end
--% endif
--% include "authorize/check_declared.lua"
  if code then break end
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
--% if plans or lengthening
  if weighs or lengthens then
--% include "authorize/check_size.lua"
    if code then break end
  end
--% endif
--% if batch and images
--% include "authorize/estimate_images.lua"
  if code then break end
--% endif

--% include "record/check_capacity.lua"
--% if hard_max is not none
  if code then break end
--% endif
--% for limit in limits
--% filter spread("this_counter", [counted[limit.counter]])
  if this_counter then
--% endfilter
--% with ring = names.state if limit.slot.kind == "ring" else none
--% share "limit/check_limit.lua" of limit, ring, subject_ring_offset, batch
--% endwith
    if code then break end
  end
--% endfor
--% for limit in limits if limit.subject == "identity"
--% filter spread("this_counter", [counted[limit.counter]])
  if this_counter then
--% endfilter
--% share "limit/take_limit.lua" of limit, batch
  end
--% endfor
until true
