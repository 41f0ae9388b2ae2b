-- remember_reply: store the reply to a call with an id, if it is short enough.
-- in:  once_key, once_digest, reply
-- out: none
if once_key then
  local packed = cmsgpack.pack(reply)
  if #packed <= {{ once_reply_bytes }} then
--% if cluster and between
    call('ECHO', '')
--% endif
    call('SET', once_key, once_digest .. packed, 'KEEPTTL')
  end
end
