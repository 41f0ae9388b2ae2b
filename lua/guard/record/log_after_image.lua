-- log_after_image: append the state of the one key after the command.
-- in:  imaged, imaged_bound, command, stop, name_at, reply, argv, event
-- out: after, bound, name
local name, bound, after = imaged, imaged_bound
if command == 'SET' and stop == name_at + 2 and not reply.err{{ values.unless_expiring }} then
  -- A plain SET leaves its own argument, and no expiry: nothing has to be read.
  local value = argv[stop]
  after = 'large'
  if #value <= bound then
--% include "record/strip_cached_count.lua"
    after = redis.sha1hex(value) .. ':-1'
  end
else
--% include "record/key_state.lua"
end
call('XADD', {{ names.audit }}, '*', 'of', event, 'after', after)
