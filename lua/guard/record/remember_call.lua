-- remember_call: remember a call with an id before it runs.
-- in:  once_key, once_digest
-- out: none
--
-- Limits and event are written, so a server that is full has refused the call already. Whatever fails
-- from here on, the call does not run again.
if once_key then
--% if cluster and between
  call('ECHO', '')
--% endif
  call('SET', once_key, once_digest, 'PX', {{ text(once_keep_ms) }})
end
