-- before_image: read what a key holds, up to a bound. A string is read as it is; DUMP would
-- compress it.
-- in:  name, bound
-- out: expires, image_field, image
do
--% if between
  call('ECHO', '')
--% endif
  local kind = call('TYPE', name).ok
  if kind == 'string' then
    image_field, image = 'value', call('GETRANGE', name, '0', bound)
    if #image > bound then expires, image = 'large', call('STRLEN', name) end
  elseif kind == 'none' then
    expires, image_field, image = 'absent', 'value', ''
  else
    image_field, image = 'image', call('MEMORY', 'USAGE', name)
--% if Bound.PATHS in bounds
    if kind == 'ReJSON-RL' then image = math.ceil(image / {{ document_shrinks }}) end
--% endif
    if image > bound then
      expires = 'large'
    else
      image = call('DUMP', name)
      -- The size of a key was estimated from a few of its elements.
      if #image > bound then expires, image = 'large', #image end
    end
  end
  if not expires then
    expires = call('PEXPIRETIME', name)
    expires = expires == -1 and '-1' or string.format('%.0f', expires)
  end
end
