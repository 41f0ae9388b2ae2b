-- log_before_images: add before-images of all keys that change to the event; of none if there are
-- too many.
-- in:  imaged, imaged_bound, entry
-- out: imaged, imaged_bound, entry
if #imaged > {{ max_images }} then imaged = {} end
local held = 0
for i = {{ imaged_from }}, #imaged do
  local name = imaged[i]
--% include "record/before_image_bound.lua"
  imaged_bound[i] = bound
  if bound > 0 then
    local expires, image_field, image
--% include "record/before_image.lua"
    -- The bounds of all keys together may be more than one entry of a stream can take.
    if expires ~= 'large' then
      held = held + #image
      if held > {{ max_event_bytes }} then expires, image = 'large', #image end
    end
    entry[#entry + 1], entry[#entry + 2] = 'before', name
    entry[#entry + 1], entry[#entry + 2] = 'expires', expires
    entry[#entry + 1], entry[#entry + 2] = image_field, image
  end
end
