-- refresh_asking: begin an asking, unless there is one that may still be answered.
-- in:  asked_us_A, now_us, state_key_A
-- out: asked_us_A
if not (asked_us_A > 0 and asked_us_A <= now_us and now_us - asked_us_A < {{ lease.refresh_us }}) then
  asked_us_A = now_us
  call('SETRANGE', state_key_A, {{ lease.asked_at }}, struct.pack('<d', asked_us_A))
end
