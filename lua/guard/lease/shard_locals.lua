-- shard_locals: take the last word, a tag or a voucher that begins with it, off the arguments.
-- in:  argv
-- out: argv, is_partial, lacks, state_key, tag, voucher
--
-- It comes last, so that all other arguments are where they are on one server. Names are made of
-- the tag, so that a malformed one, or that of the home, is denied at once. It is not recorded, since
-- it names no stream.
local tag, voucher = argv[#argv] or ''
if #argv > 2 then argv[#argv] = nil end
if #tag > 4 then tag, voucher = string.match(string.sub(tag, 1, 5), '^[^:]*'), tag end
if #tag > 4 or not find(tag, '^[a-z0-9]+$') or tag == {{ lease.home_tag }} then
  return { err = 'LEASH COMMAND_REFUSED tag=' .. string.gsub(tag, '[^%w]', '_') }
end
local state_key, lacks, is_partial = {{ shard_state }}
