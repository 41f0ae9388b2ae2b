-- check_id: deny a changing call whose id belongs to another call; forget the id of one that only
-- reads.
-- in:  once, once_key, is_taken, changes, undecided
-- out: code, detail, value, once_key
if not changes then
  once_key = nil
elseif is_taken then
  code, detail, value = 'IDEMPOTENCY_CONFLICT', 'once', once
--% if cluster
elseif not once_key then
  code, detail, value = 'COMMAND_REFUSED', 'once', 'key'
else
  -- While the slot is moved key by key, the record may be at the other node: of two names, the second
  -- of which never exists, an EXISTS is an error then. Nothing has run.
--% if between
  call('ECHO', '')
--% endif
  local failed = undecided or redis.pcall('EXISTS', once_key, once_key .. '!')
  if type(failed) == 'table' then
    if find(failed.err, 'non local key', 1, true) or find(failed.err, 'rehashing of the slot', 1, true) then
      failed = { err = 'TRYAGAIN the slot of the call is moving, so it is not known whether its id was used' }
    end
    return failed
  end
--% endif
end
