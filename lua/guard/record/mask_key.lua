-- mask_key: return a key as it is recorded, and whether it is masked.
-- in:  none
-- out: masked
local function masked(name)
  local beginning
  if false then
--% for matcher in masks
--% if matcher.text is not none
  elseif name == {{ matcher.text }} then beginning = {{ matcher.text }}
--% elif matcher.pattern is not none
  elseif find(name, {{ matcher.pattern }}) then beginning = {{ matcher.beginning }}
--% else
  elseif true then beginning = ''
--% endif
--% endfor
  end
  if not beginning then return name, false end
  return beginning .. '#' .. redis.sha1hex(name), true
end
