-- before_image: read what a key holds, up to a bound. A string is read as it is; DUMP would
-- compress it.
-- in:  name, bound
-- out: expires, kept_as, kept
do
--% if between
  call('ECHO', '')
--% endif
--% if vault
  local name = {{ physical("name") }}
--% endif
  local kind = call('TYPE', name).ok
  if kind == 'string' then
    kept_as, kept = 'value', call('GETRANGE', name, '0', bound)
    if #kept > bound then expires, kept = 'large', call('STRLEN', name) end
  elseif kind == 'none' then
    expires, kept_as, kept = 'absent', 'value', ''
  else
    kept_as, kept = 'image', call('MEMORY', 'USAGE', name)
    if kept > bound then
      expires = 'large'
    else
      kept = call('DUMP', name)
      -- The size of a key was estimated from a few of its elements.
      if #kept > bound then expires, kept = 'large', #kept end
    end
  end
  if not expires then
    expires = call('PEXPIRETIME', name)
    expires = expires == -1 and '-1' or string.format('%.0f', expires)
  end
end
