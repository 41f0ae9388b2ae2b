-- begin_event: append the event of a script before its first change, and read before-images.
-- in:  event, sequence, script, charged, token_id, correlation, imaged, imaged_to, befores
-- out: event, sequence, imaged_to
if not event then
  sequence = sequence + 1
  call('SETRANGE', {{ names.state }}, {{ numbers_at }}, struct.pack('<d', sequence))
  event = call('XADD', {{ names.audit }}, '*', 'seq', sequence, 'token', token_id, 'script', script, 'policy', charged, 'correlation', {{ audit.correlation }})
--% include "record/trim_audit.lua"
end
--% if images
do
  local entry = befores
--% include "record/log_before_images.lua"
  imaged_to = #imaged
end
--% endif
--% if between
call('ECHO', '')
--% endif
