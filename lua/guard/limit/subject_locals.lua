-- subject_locals: declare the numbers of one subject of a limit, which has counted nothing yet.
-- in:  none
-- out: ends_N, used_N, head_N, taken_N, tat_N
--% if limit.slot.kind == "budget"
local ends_N, used_N = 0, 0
--% elif limit.slot.kind == "gcra"
local tat_N = 0
--% else
local head_N, taken_N = 0, 0
--% endif
