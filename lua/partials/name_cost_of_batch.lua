local cost = passed .. ''
if passed_reads > 0 then cost = cost .. ',' .. passed_reads .. 'r' end
if passed_writes > 0 then cost = cost .. ',' .. passed_writes .. 'w' end
if passed_deletes > 0 then cost = cost .. ',' .. passed_deletes .. 'd' end
