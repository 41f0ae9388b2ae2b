-- cost_of_batch: name the policy and what a batch takes of its limits, in one field.
-- in:  passed, passed_reads, passed_writes, passed_deletes
-- out: charged
local charged = {{ policy }} .. ' ' .. passed
if passed_reads > 0 then charged = charged .. ',' .. passed_reads .. 'r' end
if passed_writes > 0 then charged = charged .. ',' .. passed_writes .. 'w' end
if passed_deletes > 0 then charged = charged .. ',' .. passed_deletes .. 'd' end
