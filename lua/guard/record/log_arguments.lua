-- log_arguments: collect the arguments that are not keys for the event; only their lengths if a key
-- is masked.
-- in:  argv, name_at, command, stop, walked, first, last, step, is_masked
-- out: args_field, args_value, is_masked
--
-- Keys that are found by options stand among the arguments, so all arguments are taken then.
local args_field, args_value
do
  local parts = {}
--% if masks and has_indexes
  -- A query may quote a key in many ways.
  is_masked = is_masked or find(command, '^FT%.[SA][EG]')
--% endif
  -- The name of a sub-command is in the command's.
  for at = name_at + (command == argv[name_at] and 1 or 2), stop do
    if walked ~= argv or at < first or at > last or (at - first) % step ~= 0 then
      local argument = argv[at]
--% if audit.values == "length"
      parts[#parts + 1] = #argument
--% else
      parts[#parts + 1] = argument
--% if masks
      -- A malformed call has keys in unexpected places.
      is_masked = is_masked or select(2, masked(argument))
--% endif
--% endif
    end
  end
--% if audit.values == "length"
  args_field, args_value = 'lengths', table.concat(parts, ',')
--% else
  for i = 1, #parts do
    parts[i] = is_masked and #parts[i] or #parts[i] .. ':' .. parts[i] .. ','
  end
  if is_masked then
    args_field, args_value = 'lengths', table.concat(parts, ',')
  else
--% if audit.values == "digest"
    args_field, args_value = 'args_sha1', redis.sha1hex(table.concat(parts))
--% else
    args_field, args_value = 'args', table.concat(parts)
--% endif
  end
--% endif
end
