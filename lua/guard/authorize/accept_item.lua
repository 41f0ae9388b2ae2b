-- accept_item: remember what an allowed command of a batch needs when it runs, and add it to the
-- event.
-- in:  n, restore, command, argv, name_at, work, reads, writes, deletes, recorded, masked, first,
--      last, step, walked, args_field, args_value, subjects_N, counted_N, kept_N, times, taken,
--      from, run_end, keys, sequence, token_id, correlation, gone, byte_caps, instead
-- out: after, argv, count, entry, fields, n, names, olds, passed, passed_deletes, passed_reads,
--      passed_writes, readers, restores, runs, searches, spent, stop, unheard, works
if restore then
  restores = restores or {}
--% if has_indexes
  restores[n] = restore
--% else
  restores[n] = true
--% endif
end
if command ~= argv[name_at] then
  names = names or {}
  names[n] = command
end
--% if has_indexes
if instead then
  searches = searches or {}
  searches[n] = instead
end
--% endif
passed = passed + {{ taken }}
spent = spent + work
if work > 0 then
  works = works or {}
  works[n] = work
end
--% if remembering
if gone and gone[n] then
  after = after or {}
  for i = 1, #gone[n] do after[gone[n][i]] = { 0, nil, false } end
end
--% endif
--% if reply_limits
if reads then readers[n] = true end
--% elif counts_bytes
if byte_caps and reads then
  readers = readers or {}
  readers[n] = true
end
--% endif
if reads then
  passed_reads = passed_reads + {{ taken }}
--% if gets
  if command == 'SET' then olds = olds or {} olds[n] = true end
--% endif
end
if writes then passed_writes = passed_writes + {{ taken }} end
if deletes then passed_deletes = passed_deletes + {{ taken }} end
if recorded then
  local name, touched, is_masked = command, key or '', false
--% if masks
  touched, is_masked = masked(touched)
--% endif
  if false then
--% if running
  elseif times then
    -- Packed by the server, since numbers become text at great cost.
    name, touched = command .. '*' .. times, cmsgpack.pack(from == 1 and not keys[last + 1] and keys or { unpack(keys, from, last) })
--% endif
  elseif first < last then
    local parts = {}
    for at = first, last, step do
      local key, hidden = walked[at], false
      if key then
--% if masks
        key, hidden = masked(key)
--% endif
        parts[#parts + 1], is_masked = #key .. ':' .. key .. ',', is_masked or hidden
      end
    end
    if parts[2] then name, touched = command .. ':' .. #parts, table.concat(parts) end
  end
--% if not sandbox
  entry = entry or { 'XADD', {{ names.audit }}, '*', 'seq', sequence + 1, 'token', token_id, 'policy', '', 'correlation', {{ audit.correlation }} }
--% endif
  entry[fields + 1], entry[fields + 2] = name, touched
  fields = fields + 2
--% if audit.logs_arguments
--% include "record/log_arguments.lua"
  entry[fields + 1], entry[fields + 2] = args_field, args_value
  fields = fields + 2
--% endif
--% if masks
  hidden[n] = is_masked
--% endif
--% if images
--% include "record/list_changed_keys.lua"
--% endif
else
--% if running
  for i = n, n + taken - 1 do unheard[i] = true end
--% else
  unheard[n] = true
--% endif
end
--% if running
if times then
  runs = runs or {}
  runs[n], argv[name_at + 1] = times, from
  count, n, stop = last, n + times - 1, run_end
end
--% endif
--% include "limit/collect_counts.lua"
