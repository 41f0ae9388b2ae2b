-- next_item: read the next command of a batch; end the loop at a malformed one.
-- in:  none
-- out: argv, code, command, detail, item, key, n, name_at, size, stop, value
n = n + 1
command, key = 'BATCH', nil
local size_at, name_at = stop + 1, stop + 2
local size = tonumber(argv[size_at]) or 0
stop = size_at + size
if size < 1 or not argv[stop] then
  code, detail, value, item = 'COMMAND_REFUSED', 'size', argv[size_at], n
  break
end
if n > {{ max_batch_commands }} then code, detail, value = 'ARGS_TOO_MANY', 'commands', n .. '' break end
if stop - 3 - n > {{ max_arguments }} then
  code, detail, value = 'ARGS_TOO_MANY', 'arguments', stop - 3 - n .. ''
  break
end
-- A number from here on: the place where the command ends.
argv[size_at] = stop
command = argv[name_at]
