-- What became of the keys whose images are kept: by it an undo sees whether others changed them.
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
