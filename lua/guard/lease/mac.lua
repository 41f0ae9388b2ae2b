-- mac: return the message authentication code of a request or a voucher.
-- in:  none
-- out: mac
--
-- The shape of HMAC-SHA-1 (RFC 2104), with the inner digest in hexadecimal digits. The two keys are
-- whole blocks, so nothing is padded here.
local function mac(text)
  return redis.sha1hex({{ mac_outer }} .. redis.sha1hex({{ mac_inner }} .. text))
end
