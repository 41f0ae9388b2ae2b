-- check_size: deny a call that needs too much work, that makes a string too long, or that leaves
-- other values than a grant allows.
-- in:  now_us, sent, weighs, lengthens, governs, walked, first, last, step, argv, command, name_at, stop
-- out: code, detail, value, amount, key, reason   set if the call is denied
--      work, weighed, spent, asks
local names = {}
for at = first, last, step do
  if not walked[at] then break end
  names[#names + 1] = walked[at]
end
--% if batch and plans
if weighs then
  weighed = weighed or {}
  weighed[n] = names
end
--% endif
--% if between
call('ECHO', '');
--% endif
(function(base)
  local function amount_of(what, much, most)
    return string.format(' %s=%.0f limit=%.0f', what, math.ceil(math.min(much, 1e15)), most)
  end
--% if lengthening
  if lengthens or sent > {{ default_element_bytes }} then
--% include "authorize/check_length.lua"
    if code then return end
  end
--% endif
--% if batch
  local left = {{ work_limit }} - spent
--% else
  local left = {{ work_limit }}
--% endif
--% if plans
  if weighs then
--% if not batch
--% include "authorize/estimate_work.lua"
--% endif
--% if patterns or Bound.PATHS in bounds
--% if bound_tokens
    local more, asked, denial, named, why, by = weigh(command, argv, base, stop, names, left - work)
    amount = by
--% else
    local more, asked, denial, named, why = weigh(command, argv, base, stop, names, left - work)
--% endif
    if denial then
      code, detail, value, key, reason = denial, 'key', named, named, why
--% if Bound.PATHS in bounds
      if denial == 'COMMAND_REFUSED' then detail, key = 'command', why and names[1] end
--% else
      if denial == 'COMMAND_REFUSED' then detail, key = 'command', nil end
--% endif
      return
    end
--% else
    local more, asked = weigh(command, argv, base, stop, names, left - work)
--% endif
--% if batch
    -- Asking takes time also if the call is denied; after a change it is done again.
    asks = asks + asked
    if fields > header then asked = 2 * asked end
    work, spent, left = work + more, spent + asked, left - asked
--% else
    work = work + more + asked
--% endif
  end
--% endif
--% if governing
  if governs and work <= left then
    (function()
--% include "authorize/check_values.lua"
    end)()
    if code then return end
  end
--% endif
  -- Written this way, NaN is too much.
  if not (work <= left) then
--% if batch
    work = spent + work
--% endif
    code, detail, value, amount = 'WORK_TOO_LARGE', 'command', command, amount_of('work', work, {{ work_limit }})
--% if plans and not batch
  elseif work > {{ work_limit }} / 10 and {{ collects_after("now_us", "work") }} then
    -- New strings are also compared with those of earlier calls, until these are collected.
    collectgarbage('step', {{ collected_kib }})
--% endif
  end
--% filter offset(name_at)
end)(name_at)
--% endfilter
