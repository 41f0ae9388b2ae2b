local cost = '1'
if reads then cost = '1,1r' end
if writes then cost = reads and '1,1r,1w' or '1,1w' end
if deletes then cost = cost .. ',1d' end
