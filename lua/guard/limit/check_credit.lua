-- check_credit: find whether a shard has the units that a call takes of a limit. After a voucher
-- with no unit, none is to be had.
-- in:  credit_N, until_N, is_answered
-- out: at_us, code, detail, lacks, value
if not (credit_N >= {{ taken }}) then
  if is_answered and is_answered[{{ limit.number }}] then
    code, detail, value, at_us = 'RATE_LIMITED', 'limit', {{ limit.slot.name }}, until_N
--% if limit.runs
    code = 'BUDGET_EXHAUSTED'
--% endif
  else
    lacks = true
  end
end
