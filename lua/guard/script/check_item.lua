-- check_item: find and check a script or the next item; any grant on the declared keys is enough.
-- in:  argv, keys, mode, is_lone, items, perform
-- out: code, detail, value, amount, reason, at_us, key, command   set if the item is denied
--      words, digest, script, own_keys, own_argv, only_reads
--      name_at, stop, spelled, reads, writes, deletes, recorded, walked, first, last, step
if is_lone then
  stop = #argv
  digest, only_reads = string.gsub(mode, 'ro$', '')
  if stop > {{ max_arguments + 3 }} or #keys > {{ max_arguments }} then
    code, detail, value = 'ARGS_TOO_MANY', 'arguments', math.max(stop - 3, #keys) .. ''
    break
  end
  own_keys, own_argv = keys, { unpack(argv, 4) }
else
  local size = tonumber(argv[stop + 1]) or 0
  command, key, name_at, stop = 'BATCH', nil, stop + 2, stop + 1 + size
  if size < 1 or not argv[stop] then code, detail, value = 'COMMAND_REFUSED', 'size', argv[name_at - 1] or '' break end
  spelled, command = spelled + size, argv[name_at]
  if #items >= {{ max_batch_commands }} then code, detail, value = 'ARGS_TOO_MANY', 'commands', #items + 1 .. '' break end
  if spelled > {{ max_arguments }} then code, detail, value = 'ARGS_TOO_MANY', 'arguments', spelled .. '' break end
  if find(command, '^EVALSHA_?R?O?$') then
    local from, count = name_at + 3, tonumber(size > 2 and argv[name_at + 2]) or -1
    if not (count >= 0 and count % 1 == 0 and from + count <= stop + 1) then code, detail, value = 'COMMAND_REFUSED', 'command', command break end
    digest, only_reads = argv[name_at + 1], #command > 7 and 1
    own_keys, own_argv = { unpack(argv, from, from + count - 1) }, { unpack(argv, from + count, stop) }
    command = 'EVALSHA'
  else
    words, only_reads = { unpack(argv, name_at, stop) }, nil
  end
end
if words then
  code, detail, value, amount, reason, at_us, key, command, reads, writes, deletes, recorded, walked, first, last, step = perform(words, 'check')
else
  walked, first, last = own_keys, 1, #own_keys
  if false then
--% for script in scripts
  elseif digest == {{ script.digest }} then
    script, reads, writes, deletes, recorded = {{ script.name }}, {{ script.reads }}, {{ script.writes }}, {{ script.deletes }}, {{ script.mutates }}
--% if script.only_reads
    only_reads = 1
--% endif
--% endfor
  else
    code, detail, value, command = 'COMMAND_REFUSED', 'script', digest, 'EVALSHA:' .. digest
  end
  if code then break end
--% if cluster and cap_plans
  -- Units for the bytes of its commands cannot be asked for while it runs.
  if caps and caps[{{ cap_number("bytes_written") }}] then code, detail, value = 'COMMAND_REFUSED', 'script', digest break end
--% endif
  for at = 1, last do
    key = own_keys[at]
--% with checks = declared, one_check = true, denied_last = false, any_grant = true
--% include "authorize/check_key.lua"
--% endwith
    if code then break end
  end
  if not code then key = nil end
end
