-- reply: run one command and restore its reply.
-- in:  argv, name_at, stop, restore, tried, expiring, event, reads, byte_caps
-- out: reply
--% filter offset(name_at)
--% if waiting
local reply = tried
--% else
local reply
--% endif
--% if between
call('ECHO', '')
--% endif
if reply then
  -- It ran already, to learn whether it would block.
--% if has_indexes
elseif instead then
  reply = redis.pcall(unpack(instead))
--% endif
elseif stop == name_at + 2 then
  -- Three words, such as SET: `unpack` costs the call 2 % more.
  reply = redis.pcall(argv[name_at], argv[name_at + 1], argv[name_at + 2])
else
  reply = redis.pcall(unpack(argv, name_at))
end
--% if values.rules.ttl
if expiring and event then
--% include "reply/set_expiry.lua"
end
--% endif
--% include "reply/restore_reply.lua"
--% if reply_limits or counts_bytes
if {{ counts_reply }} then
--% with written_limits = reply_limits, written_caps = ("bytes_read",)
--% include "limit/take_reply.lua"
--% include "limit/write_bytes.lua"
--% endwith
end
--% endif
--% if images
if imaged then
  if type(imaged) == 'string' then
--% include "record/log_after_image.lua"
  else
--% include "record/log_after_images.lua"
  end
end
--% endif
--% endfilter
