-- begin_event: append the event of scripts before their first change, and read before-images.
-- in:  event, sequence, charge, token_id, correlation, imaged, imaged_to, befores
-- out: event, sequence, imaged_to
if not event then
  local passed, passed_reads, passed_writes, passed_deletes, script = unpack(charge)
--% include "record/cost_of_batch.lua"
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
