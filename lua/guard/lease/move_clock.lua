-- move_clock: go on with the time of the newest call, or begin again if the clock went back further.
-- in:  now_us, last_us, suspended, min_epoch, seq, sequence, state_key
-- out: asked_us, born_us, is_same, lacks, last_us, layout, now_us, CREDITS
--
-- Units and leases from before end by a clock that is ahead, so they are dropped.
if now_us >= last_us - {{ lease.skew_us }} then
  now_us = last_us
else
  lacks, is_same, layout, asked_us, born_us, last_us = true, false, 0, 0, now_us, now_us
--% if lease.own_account.credits
--% filter expand("CREDITS", lease.own_account.credits)
  CREDITS = {{ lease.own_account.no_credits }}
--% endfilter
--% endif
  call('SET', state_key, struct.pack('<dddddddd', layout, suspended, min_epoch, seq, asked_us, born_us, sequence, last_us), 'KEEPTTL')
end
