-- next_item: read the next command of a batch, or the next run; end the loop at a malformed one.
-- in:  grouped
-- out: argv, code, command, detail, from, item, key, n, name_at, run_end, size, size_at, spelled,
--      stop, taken, times, value
n = n + 1
command, key = 'BATCH', nil
local size_at, name_at = stop + 1, stop + 2
local size = tonumber(argv[size_at]) or 0
stop = size_at + size
--% if running
-- For a run: the number of its commands, the place of its first key, and where it ends.
local times, from, run_end
if size < 1 then
  size, times = string.match(argv[size_at], '^(%d+)%*(%d+)$')
  size, times, from = tonumber(size) or 0, tonumber(times) or 0, tonumber(argv[name_at + 1]) or 0
  stop, run_end = name_at + size - 1, name_at + 1 + times * (size - 2)
  if size < 2 or times < 2 or from < 1 or from % 1 ~= 0 or not keys[from + times - 1] or not argv[run_end] or grouped then size = 0 end
end
local taken = times or 1
--% endif
if size < 1 or not argv[stop] then
  code, detail, value, item = 'COMMAND_REFUSED', 'size', argv[size_at], n
  break
end
if n + {{ taken }} - 1 > {{ max_batch_commands }} then
  code, detail, value = 'ARGS_TOO_MANY', 'commands', n + {{ taken }} - 1 .. ''
  break
end
spelled = spelled + size * {{ taken }}
if spelled > {{ max_arguments }} then
  code, detail, value = 'ARGS_TOO_MANY', 'arguments', spelled .. ''
  break
end
--% if running
-- The place of the first key becomes the key: then the first command of a run stands as others do.
if times then argv[name_at + 1] = keys[from] end
--% endif
-- A number from here on: the place where the command ends.
argv[size_at] = {{ run_end }}
command = argv[name_at]
