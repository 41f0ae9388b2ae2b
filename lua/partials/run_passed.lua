local command_passed = passed[i]
if command_passed then
  local argv, command, key, reply_length, entry = unpack(command_passed, 1, 5)
  local event = entry and batch_event
  local reply = redis.pcall(unpack(argv, 4))
--% include "partials/mend_reply.lua"
  if reply == nil then reply = find end
  replies[i] = reply
end
