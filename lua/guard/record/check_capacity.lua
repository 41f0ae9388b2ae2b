-- check_capacity: deny a recorded call if the audit stream is full; decide whether a read is
-- recorded.
-- in:  reads, key
-- out: code, detail, is_full, recorded, value
--% if audit.records_reads
recorded = recorded or reads or key ~= nil
--% endif
--% if audit.hard_max is not none
-- Nothing is trimmed that was not exported, so there may be no room for another event.
if recorded then
  if is_full == nil then is_full = call('XLEN', {{ names.audit }}) >= {{ audit.hard_max }} end
  if is_full then code, detail, value = 'AUDIT_FULL', 'events', {{ text(audit.hard_max) }} end
end
--% endif
