-- check_id: deny a changing call whose id belongs to another call; forget the id of one that only
-- reads.
-- in:  once, once_key, is_taken, changes
-- out: code, detail, value, once_key
if not changes then
  once_key = nil
elseif is_taken then
  code, detail, value = 'IDEMPOTENCY_CONFLICT', 'once', once
end
