-- perform_run: carry out a run of commands, up to a reply that is to be restored, or until so much
-- was read that each command is to be weighed.
-- in:  times, argv, name_at, stop, keys, run, unheard
-- out: replies, i, left, odd, ran, changed, sizes, usages, answers, at, command, from, width
command, from, width = argv[name_at], argv[name_at + 1], (stop - name_at - 1) / times
-- Places are reserved, since a table that grows is copied again and again.
answers, at = { {{ places }} }, name_at + 2
local done, are_equal = 0, true
--% if has_mset
if command == 'SET' and width == 1 then
  -- It has the effect of these SETs, at less cost. If a server does not allow it, they are run.
  local words = { 'MSET', {{ places }}, {{ places }} }
  for j = 0, times - 1 do words[2 * j + 2], words[2 * j + 3] = keys[from + j], argv[at + j] end
  local reply = run(unpack(words, 1, 2 * times + 1))
  if reply.ok then answers[1], done = reply, times end
end
--% endif
while done < times and ran <= {{ work_limit / 8 }} do
  local reply
  if width == 0 then
    reply = run(command, keys[from + done])
  elseif width == 1 then
    reply = run(command, keys[from + done], argv[at])
  else
    reply = run(command, keys[from + done], unpack(argv, at, at + width - 1))
  end
  local kind = type(reply)
  if kind == 'string' then
    ran = ran + #reply * {{ string_work }}
  elseif kind == 'table' and not reply.ok or kind == 'number' and not (reply < 9007199254740992 and reply > -9007199254740992) then
    odd = reply
    break
  end
  at, done, answers[done + 1] = at + width, done + 1, reply
  local first = answers[1]
  are_equal = are_equal and (reply == first or kind == 'table' and type(first) == 'table' and reply.ok == first.ok)
end
--% if plans
if not unheard[i] then usages, sizes, changed = nil, nil, true end
--% endif
replies[i] = are_equal and done == times and answers[1] or answers
i, left = i + done, times - done
