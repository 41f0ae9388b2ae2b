-- read_token: read the record of the token. A token of another identity is not found under this
-- prefix.
-- in:  token
-- out: record, token_key
if #token <= {{ max_token_bytes }} then
  token_key = {{ names.token_prefix }} .. redis.sha1hex(token)
  record = call('GET', token_key)
end
