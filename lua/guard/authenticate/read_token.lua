-- read_token: read the record of the token. A token of another identity is not found under this
-- prefix.
-- in:  token, known, known_count
-- out: known, known_count, record, token_key
if #token <= {{ max_token_bytes }} then
  token_key = known and known[token] or {{ names.token_prefix }} .. redis.sha1hex(token)
  record = call('GET', token_key)
  -- A function remembers the keys of tokens that have a record: the digest costs a tenth of a call.
  -- The record is read every time, so a token ends as before.
  if known and record and not known[token] then
    if known_count >= {{ remembered_tokens }} then known, known_count = {}, 0 end
    known[token], known_count = token_key, known_count + 1
  end
end
