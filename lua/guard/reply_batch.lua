-- reply_batch: run the allowed commands of a batch and collect their replies.
-- in:  argv, n, replies, typeds, mends, names, unheard, event
-- out: replies, reply, stop
local failed
local seen, listed = 0, 0
local run, was_typed = redis.pcall
--% if plans or lengthening
local ran, changed = asks, false
--% else
local ran = 0
--% endif
stop = 4
for i = 1, n do
  local name_at = stop + 2
  stop = argv[stop + 1]
  if not replies[i] then
    local typed, mend = typeds[i], mends[i]
    if typed ~= was_typed then
      redis.setresp(typed and 3 or 2)
      was_typed = typed
    end
--% include "reply/run_item.lua"
--% include "reply/restore_reply.lua"
--% include "reply/measure_reply.lua"
    if reply == nil then reply = find end
    replies[i] = reply
  end
end
if failed then call(unpack(failed)) end
--% if images
redis.setresp(2)
--% include "record/log_after_images.lua"
--% endif
if next(typeds) then
--% include "reply/mark_nulls.lua"
end
