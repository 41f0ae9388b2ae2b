-- What each key holds that is going to change goes into the event, up to a bound. Without an
-- image a key was not there.
if #changed > {{ max_images }} then changed = {} end
for i = 1, #changed do
  local key, bound, matched = changed[i], 0, false
--% for plan in images
  if not matched then
--% with matchers = plan.matchers, named = false
--% include "partials/match_any.lua"
--% endwith
    if matched then bound = {{ plan.max_bytes }} end
  end
--% endfor
--% if masks
  if select(2, masked(key)) then bound = 0 end
--% endif
  if bound > 0 then
    local size = call('MEMORY', 'USAGE', key)
    entry[#entry + 1], entry[#entry + 2] = 'before', key
    if size and size > bound then
      entry[#entry + 1], entry[#entry + 2] = 'large', size
    elseif size then
      entry[#entry + 1], entry[#entry + 2] = 'expires', call('PEXPIRETIME', key)
      entry[#entry + 1], entry[#entry + 2] = 'image', call('DUMP', key)
    end
    imaged[#imaged + 1], bounds[#bounds + 1] = key, bound
  end
end
