-- collect_garbage: free the strings of earlier calls, at random as often as a call has work.
-- in:  now_us
-- out: none
--
-- Until they are freed, each new string that collides is compared with them. A step ends with the
-- garbage, and after about 20 ms.
if {{ name(used) }} > {{ work_limit }} / 10 and now_us % {{ work_limit }} < {{ name(used) }} then collectgarbage('step', 16384) end
