-- require_in_force: return nil from the script unless the caller's prefixes are still in force.
-- in:  sealed_key, prefix, public_prefix
-- out: none
--
-- Otherwise the script would change keys that no guard reads.
local control, phase = unpack(call('HMGET', sealed_key, 'control', 'phase'))
if (control or public_prefix) ~= prefix or phase == 'switched' then return false end
