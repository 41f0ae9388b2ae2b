-- One command against the rules: sets code if it is refused. What it takes of the limits is
-- taken when all of them were looked at, and not yet written.
--
-- The command's name stands at name_at, its last argument at stop; in a batch others follow.
local rule, check, typed, mend
-- The keys are walked[first], walked[first + step] and so on, up to walked[last].
local walked, first, last, step = argv, name_at + 1, name_at + 1, 1
local reads, writes, deletes, recorded
--% if checks_differ
local rest
--% endif
--% if images
local changes_first, changes_rest
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
--% include "partials/find_rule.lua"
  if not rule then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
--% include "partials/apply_rule.lua"
  if code then break end
--% include "partials/check_declared.lua"
  if code then break end
  for at = first, last, step do
    local name = walked[at]
    -- A key that is missing is a wrong arity, and that is the command's own error.
    if not name then break end
    key = name
--% include "partials/check_key.lua"
    if code then break end
--% if checks_differ
    check = rest
--% endif
  end
  if code then break end

--% include "partials/check_room.lua"
--% if hard_max is not none
  if code then break end
--% endif
--% for limit in limits
--% filter numbered(limit.number)
--% filter spread("this_counter", [counted[limit.counter]])
  if this_counter then
--% if limit.subject == "identity"
--% with ring = names.state, offset = limit.slot.offset
--% include "partials/check_" ~ limit.slot.kind ~ ".lua"
--% endwith
--% else
--% include "partials/check_subjects.lua"
--% endif
    if code then break end
  end
--% endfilter
--% endfilter
--% endfor
--% for limit in limits if limit.subject == "identity"
--% filter numbered(limit.number)
--% filter spread("this_counter", [counted[limit.counter]])
  if this_counter then
--% include "partials/take_" ~ limit.slot.kind ~ ".lua"
  end
--% endfilter
--% endfilter
--% endfor
until true
