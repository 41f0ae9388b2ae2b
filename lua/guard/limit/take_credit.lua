-- take_credit: take the units of a call; below 0 they are missing.
-- in:  none
-- out: credit_N
credit_N = credit_N - {{ taken }}
