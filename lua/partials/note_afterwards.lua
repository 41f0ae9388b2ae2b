-- What became of the keys whose images are kept: by it an undo sees whether others changed them.
if imaged[1] then
--% include "partials/digest_of.lua"
  redis.setresp(2)
  local later = { 'XADD', {{ names.audit }}, '*', 'of', event }
  for i = 1, #imaged do
    local digest = digest_of(imaged[i], bounds[i])
    if #digest == 40 then
      digest = digest .. ':' .. string.format('%.0f', call('PEXPIRETIME', imaged[i]))
    end
    later[#later + 1], later[#later + 2] = 'after', digest
  end
  call(unpack(later))
end
