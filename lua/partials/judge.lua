-- One command against the rules: sets code if it is refused. What it takes of the limits is
-- not yet written.
local rule, check, rest, reply_length
-- The keys are walked[first], walked[first + step] and so on, up to walked[last].
local walked, first, last, step = argv, 5, 5, 1
local requests, reads, writes, deletes, mutates = true
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
    -- A key that is missing is a wrong arity, and that is the command's own error.
    if not walked[at] then break end
    key = walked[at]
--% include "partials/check_key.lua"
    if code then break end
    check = rest
  end
  if code then break end

  -- Every limit is looked at before one is taken: a refused call consumes nothing.
--% if restored
--% filter spread("kept_number_n", kept)
--% filter spread("number_n", restored)
  local kept_number_n = number_n
--% endfilter
--% endfilter
--% endif
--% for limit in limits
--% filter numbered(limit.number)
--% filter spread("this_counter", [limit.counter])
  if this_counter and not code then
--% if limit.subject == "identity"
--% with ring = names.state, offset = limit.slot.offset
--% include "partials/check_" ~ limit.slot.kind ~ ".lua"
--% endwith
--% else
--% include "partials/check_subjects.lua"
--% endif
  end
--% endfilter
--% endfilter
--% endfor
--% if restored
--% filter spread("kept_number_n", kept)
--% filter spread("number_n", restored)
  if code then number_n = kept_number_n end
--% endfilter
--% endfilter
--% endif
until true
