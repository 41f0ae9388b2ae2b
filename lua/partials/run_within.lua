-- run_within: run a command of a batch if what ran before left enough of the work that is allowed.
-- in:  ran: work of the commands before, as their replies and sizes show it
-- out: reply, ran
local reply
--% if plans
if weighed[i] and recorded then
  -- Commands of this batch may have changed the sizes that were estimated.
  redis.setresp(2)
  local left = {{ work_limit }} - ran
  local work = weigh_again(names[i] or argv[name_at], argv, name_at, stop, weighed[i], left)
  ran = work <= left and ran + work or math.huge
  if typed then redis.setresp(3) end
end
--% endif
if ran > {{ work_limit }} then
  reply = { err = string.format('LEASH WORK_TOO_LARGE command=%s work=%.0f limit=%.0f', (string.gsub(argv[name_at], '[^%w]', '_')), math.min(ran, 1e15), {{ work_limit }}) }
else
  reply = run(unpack(argv, name_at, stop))
end
