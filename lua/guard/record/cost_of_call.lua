-- The policy, and what the call takes of its limits: one field, since each costs the call 1 %.
local charged = {{ charges.call }}
if reads then charged = {{ charges.read }} end
if writes then charged = reads and {{ charges.read_write }} or {{ charges.write }} end
if deletes then charged = charged .. ',1d' end
