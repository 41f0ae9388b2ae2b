-- take_id: take the idempotency id out of the arguments.
-- in:  argv
-- out: argv, once
--
-- Guards without `idempotency` refuse the word before it as a command, mode or script. More words
-- are moved than any call may have; later ones are not read.
local once
if argv[3] == 'once' then
  once = argv[4] or ''
  local last = math.max(#argv, 4)
  for at = 3, math.min(last, {{ max_arguments + max_batch_commands + 9 }}) do argv[at] = argv[at + 2] end
  argv[last], argv[last - 1] = nil, nil
end
