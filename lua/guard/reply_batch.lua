-- reply_batch: run the allowed commands of a batch and collect their replies.
-- in:  argv, n, replies, mends, names, unheard, event
-- out: replies, reply, stop
local failed
local seen, listed = 0, 0
local run = redis.pcall
--% if plans or lengthening
local ran, changed = asks, false
--% else
local ran = 0
--% endif
stop = 3
for i = 1, n do
  local name_at = stop + 2
  stop = argv[stop + 1]
  if not replies[i] then
    local mend = mends[i]
--% include "reply/run_item.lua"
--% include "reply/restore_reply.lua"
--% include "reply/measure_reply.lua"
    replies[i] = reply
  end
end
if failed then call(unpack(failed)) end
--% if images
--% include "record/log_after_images.lua"
--% endif
