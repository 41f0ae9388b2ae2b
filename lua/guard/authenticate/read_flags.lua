-- read_flags: read the flags of a token that is bound, made by another token, or rotated.
-- in:  revoked, record, expires_us
-- out: mask, bindings, narrow, bindings_at, caps, caps_at, cap_count, life_us, code, revoked
--      chain_at      of a child, the place of its ancestors in the record
--      is_rotated    its children have ended, and it makes no more
--
-- The ancestors of a child follow its bindings: the id and the digest of each, from the issued token
-- on, and a byte with their number.
if revoked >= {{ rotated_flag }} and revoked < {{ 2 * rotated_flag }} then is_rotated, revoked = true, revoked - {{ rotated_flag }} end
local is_child = revoked == {{ bound_flag + child_flag }}
if is_child or revoked == {{ bound_flag }} then
  revoked = 0
--% include "authenticate/read_bound.lua"
end
if is_child then
  local length = string.byte(record, -1)
  chain_at = #record - length * {{ chain_bytes }}
  if length < 1 or length > {{ max_depth }} or chain_at < bindings_at then code = 'TOKEN_UNKNOWN' break end
end
