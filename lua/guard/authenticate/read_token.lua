-- A token of another identity is simply not found under this one's prefix.
if #token <= {{ max_token_bytes }} then
  token_key = {{ names.token_prefix }} .. redis.sha1hex(token)
  record = call('GET', token_key)
end
