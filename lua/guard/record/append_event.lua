-- append_event: append the audit event of one command, before the command runs.
-- in:  recorded, key, masked, count, keys, first, last, changes_first, walked, bound, sequence,
--      token_id, command, correlation, charged, doomed
-- out: event, imaged, imaged_bound, is_hidden
if recorded then
  local named, touched, is_masked = command, key or '', false
--% if masks
--% include "record/mask_key.lua"
  touched, is_masked = masked(touched)
--% endif
  if count > 1 then
    local parts = {}
    for i = 1, #keys do
      local key, hidden = keys[i], false
--% if masks
      key, hidden = masked(key)
--% endif
      parts[i], is_masked = #key .. ':' .. key .. ',', is_masked or hidden
    end
    named, touched = command .. ':' .. count, table.concat(parts)
  end
--% include "record/cost_of_call.lua"
--% if audit.logs_arguments
--% include "record/log_arguments.lua"
--% endif
--% if masks
  is_hidden = is_masked
--% endif
--% filter expand("LOG_FIELDS", ["args_field", "args_value"] if audit.logs_arguments else [])
--% if has_indexes
  if doomed then
    event = call('XADD', {{ names.audit }}, '*', 'seq', sequence, 'token', token_id, 'policy', charged, 'correlation', {{ audit.correlation }}, named, touched, LOG_FIELDS, 'documents', doomed)
  end
--% endif
--% if images
  if first == last then
    local name = changes_first and walked[first]
    if name then
--% include "record/before_image_bound.lua"
      if bound > 0 then
        local expires, image_field, image
--% include "record/before_image.lua"
        imaged, imaged_bound = name, bound
        event = call('XADD', {{ names.audit }}, '*', 'seq', sequence, 'token', token_id, 'policy', charged, 'correlation', {{ audit.correlation }}, named, touched, LOG_FIELDS, 'before', name, 'expires', expires, image_field, image)
      end
    end
--% if has_indexes
  elseif not event then
--% else
  else
--% endif
    local entry = { 'XADD', {{ names.audit }}, '*', 'seq', sequence, 'token', token_id, 'policy', charged, 'correlation', {{ audit.correlation }}, named, touched, LOG_FIELDS }
    imaged, imaged_bound = {}, {}
--% include "record/list_changed_keys.lua"
--% include "record/log_before_images.lua"
    event = call(unpack(entry))
  end
--% endif
  if not event then
    event = call('XADD', {{ names.audit }}, '*', 'seq', sequence, 'token', token_id, 'policy', charged, 'correlation', {{ audit.correlation }}, named, touched, LOG_FIELDS)
  end
--% endfilter
--% include "record/trim_audit.lua"
end
