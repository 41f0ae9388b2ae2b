-- shard_locals: take the tag of the shard and the voucher off the arguments, and name its keys.
-- in:  argv
-- out: argv, audit_key, is_partial, lacks, mac, pre, state_key, tag, voucher
--
-- They come last, so that all other arguments are where they are on one server. Names are made of
-- the tag, so that a malformed one, or that of the home, is denied at once. It is not recorded, since
-- it names no stream.
local tag, voucher = argv[#argv - 1] or '', argv[#argv] or ''
if #argv > 2 then argv[#argv] = nil argv[#argv] = nil end
if not find(tag, '^[a-z0-9][a-z0-9]?[a-z0-9]?[a-z0-9]?$') or tag == {{ home_tag }} then
  return { err = 'LEASH COMMAND_REFUSED tag=' .. string.gsub(string.sub(tag, 1, 128), '[^%w]', '_') }
end
local pre = {{ shard_prefix }} .. tag .. '}:'
local lacks, is_partial
local state_key, audit_key = pre .. {{ state_name }}, pre .. {{ audit_name }}
--% include "lease/mac.lua"
