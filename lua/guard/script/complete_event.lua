-- complete_event: append the commands of a script to its event, with images and errors.
-- in:  event, entry, fields, befores, failed, imaged, imaged_bound
-- out: entry
if event then
  entry[5] = event
  for at = 1, #befores do entry[fields + at] = befores[at] end
  -- What a script wrote stands; an entry that is too large leaves the event without its commands.
  local listed = redis.pcall(unpack(entry))
  if type(listed) == 'table' then redis.pcall('XADD', {{ names.audit }}, '*', 'of', event, 'error', string.sub(listed.err, 1, 200)) end
--% if images
--% include "record/log_after_images.lua"
--% endif
  if failed then call(unpack(failed)) end
end
