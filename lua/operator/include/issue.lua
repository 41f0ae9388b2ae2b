-- issue: store new tokens of an identity.
-- in:  guard_prefix, tokens_prefix, token_prefix, control_key, use_noted_us, use_noted_idle_us,
--      keep_record_ms, bound_flag
-- out: issue
--
-- For each token, `words` has its id and its digest, from place `first` to place `last`. Returns
-- the expiry (Unix ms), and 1 if the policy's max_ttl shortened the life of the tokens, else 0.
-- Returns nil and stores nothing if no active policy has the identity.
local function issue(identity, actor, note, meta, tail, given, wanted_s, now_us, words, first, last)
  local rules = call('HMGET', guard_prefix .. identity, 'ttl_s', 'max_ttl_s', 'idle_s')
  local tokens = tokens_prefix .. identity
  -- A script that fails does not roll back: a key of another type fails here.
  call('HLEN', tokens)
  call('XLEN', control_key)
  if not rules[2] then return end
  local wanted, longest = tonumber(wanted_s) or rules[1] + 0, rules[2] + 0
  local issued_ms = math.floor(now_us / 1000)
  local expires_ms = issued_ms + math.min(wanted, longest) * 1000
  -- The last use is set so far back that the first use is recorded. The idle time, which is
  -- measured from it, begins now. So until then `used_us` is before the issue.
  local used_us = now_us - (rules[3] == '0' and use_noted_us or use_noted_idle_us)
  local flags = tail ~= '' and bound_flag or 0
  local labels
  if meta ~= '' then labels = cjson.decode(meta) end
  local kept_until = string.format('%.0f', expires_ms + keep_record_ms)
  for i = first, last, 2 do
    local id, digest = words[i], words[i + 1]
    local record = struct.pack('<ddBc12', expires_ms * 1000, used_us, flags, id) .. tail
    call('SET', token_prefix .. identity .. ':' .. digest, record, 'PXAT', kept_until)
    call('HSET', tokens, id, cjson.encode({
      digest = digest, issued_ms = issued_ms, expires_ms = expires_ms, by = actor, note = note,
      meta = labels,
    }))
    local event = { 'XADD', control_key, '*', 'event', 'issue', 'actor', actor, 'identity', identity, 'token', id }
    if labels then event[#event + 1], event[#event + 2] = 'meta', meta end
    if given ~= '' then event[#event + 1], event[#event + 2] = 'restricted', given end
    call(unpack(event))
  end
  return expires_ms, wanted > longest and 1 or 0
end
