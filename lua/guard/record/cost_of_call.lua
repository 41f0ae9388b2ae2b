-- cost_of_call: name the policy and what a call takes of its limits, in one field: each field costs
-- the call 1 %.
-- in:  reads, writes, deletes
-- out: charged
local charged = {{ charges.call }}
if reads then charged = {{ charges.read }} end
if writes then charged = reads and {{ charges.read_write }} or {{ charges.write }} end
if deletes then charged = charged .. ',1d' end
