-- check_delegation: find whether the token may make the child that the words ask for, and pack it.
-- in:  argv, record, token_key, token_id, now_us, mask, bindings, narrow, bindings_at, cap_count,
--      chain_at, is_rotated
-- out: child, child_id, child_key, ends_ms, labels, children_key, refused, about, tail
--
-- A function, since a script may have no more than 200 locals.
local refused, about, child, child_id, child_key, ends_ms, labels, children_key = (function()
--% include "delegate/read_words.lua"
  local depth = chain_at and (#record - chain_at) / {{ chain_bytes }} or 0
  if is_rotated then return 'rotated' end
  if depth >= {{ delegate.depth }} then return 'depth' end

  local now_ms, parent_ends_ms = math.floor(now_us / 1000), math.floor(struct.unpack('<d', record) / 1000)
  local ends_ms = math.min(now_ms + {{ delegate.max_ttl_s * 1000 }}, parent_ends_ms)
  if wanted_s ~= '' then
    if wanted_s + 0 < 1 or wanted_s + 0 > {{ delegate.max_ttl_s }} then return 'ttl', wanted_s end
    ends_ms = now_ms + wanted_s * 1000
    if ends_ms > parent_ends_ms then return 'outlives', wanted_s end
  end
--% include "delegate/narrow.lua"

  local parent_id = string.sub(token_id, -{{ id_chars }})
  tail = tail .. (chain_at and string.sub(record, chain_at, -2) or '') .. parent_id .. string.sub(token_key, -40) .. string.char(depth + 1)
  if #tail > {{ most_record_bytes - record_bytes }} then return 'size' end
  local children_key = {{ names.children_prefix }} .. parent_id
  -- A key of another type counts as full.
  local live = redis.pcall('ZCOUNT', children_key, string.format('(%.0f', now_ms), '+inf')
  if type(live) ~= 'number' or live >= {{ delegate.children }} then return 'children' end
  -- An agent chooses the digest, but not the id: operators revoke a child by it.
  local child_id = string.gsub(string.sub(redis.sha1hex(digest), 1, {{ 2 * id_chars }}), '..', function(byte)
    local n = tonumber(byte, 16) % #{{ delegation.id_alphabet }} + 1
    return string.sub({{ delegation.id_alphabet }}, n, n)
  end)
  local child_key = {{ names.token_prefix }} .. digest
  if call('GETRANGE', child_key, 0, 0) ~= '' or redis.pcall('HEXISTS', {{ names.delegated }}, child_id) == 1 then return 'digest' end
  local child = struct.pack('<ddBc12', ends_ms * 1000, now_us - {{ use_noted_us }}, {{ bound_flag + child_flag }}, child_id) .. tail
  return nil, nil, child, child_id, child_key, ends_ms, labels, children_key
end)()
