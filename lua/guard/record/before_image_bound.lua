-- before_image_bound: find how many bytes of a key are recorded before it changes; 0 for none.
-- in:  name, masked
-- out: bound
local bound = 0
do
  local key, matched = name, false
--% for plan in images
  if not matched then
--% with matchers = plan.matchers
--% include "authorize/match_any.lua"
--% endwith
    if matched then bound = {{ plan.max_bytes }} end
  end
--% endfor
--% if masks
  if select(2, masked(key)) then bound = 0 end
--% endif
end
