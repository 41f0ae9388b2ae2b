-- log_after_images: append the states of the changed keys after the commands. An undo compares them
-- to see whether others changed the keys later.
-- in:  imaged, event, imaged_bound
-- out: none
if imaged and imaged[1] then
  (function()
    local later = { 'XADD', {{ names.audit }}, '*', 'of', event }
    for i = 1, #imaged do
      local name, bound, after = imaged[i], imaged_bound[i]
      if bound > 0 then
--% include "record/key_state.lua"
        later[#later + 1], later[#later + 2] = 'after', after
      end
    end
    if later[6] then call(unpack(later)) end
  end)()
end
