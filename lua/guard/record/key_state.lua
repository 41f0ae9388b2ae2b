-- key_state: return a key's digest and expiry; a string does without the function for all types.
-- in:  name, bound
-- out: after
do
  local kind = call('TYPE', name).ok
  if kind == 'string' then
    local value = call('GETRANGE', name, '0', bound)
    after = 'large'
    if #value <= bound then
--% include "record/strip_cached_count.lua"
      after = redis.sha1hex(value)
    end
  elseif kind == 'none' then
    after = 'absent'
  else
    after = (function()
--% include "record/digest_of_key.lua"
--% if Bound.PATHS in bounds
      if kind == 'ReJSON-RL' then return digest_of(name, bound * {{ document_shrinks }}) end
--% endif
      return digest_of(name, bound)
    end)()
  end
  if #after == 40 then
    local expires = call('PEXPIRETIME', name)
    after = after .. (expires == -1 and ':-1' or ':' .. string.format('%.0f', expires))
  end
end
