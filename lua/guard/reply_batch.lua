-- reply_batch: run the allowed commands of a batch and collect their replies.
-- in:  n, replies, restores, names, runs, grouped, unheard, event, asks
-- out: replies, stop, ran, changed, failed, seen, listed
--% if between
call('ECHO', '')
--% endif
local failed
local seen, listed = 0, 0
local run = redis.pcall
local ran, changed = asks, false
stop = 3
local i, name_at = 1
--% if running
-- For a run: its commands, how many of them are carried out one by one, the place of the arguments
-- of the next one, their replies so far, and a reply that is to be restored.
local times, left, command, from, width, at, answers, odd = nil, 0
--% endif
while i <= n do
--% if running
  if left == 0 then
    name_at, stop = stop + 2, argv[stop + 1]
    times = runs and runs[i]
    if times then
--% include "reply/perform_run.lua"
    end
  end
  local is_done = times and left == 0
--% else
  name_at, stop = stop + 2, argv[stop + 1]
  local left, is_done = 0
--% endif
  if not is_done then
    if left > 0 or not replies[i] then
      local restore = restores and restores[i]
      local argv, name_at, stop = argv, name_at, stop
--% if running
      if left > 0 then
        argv, name_at, stop = { command, keys[from + times - left], unpack(argv, at, at + width - 1) }, 1, width + 2
      end
--% endif
--% include "reply/run_item.lua"
--% include "reply/restore_reply.lua"
--% include "reply/measure_reply.lua"
--% if reply_limits or counts_bytes
      if {{ counts_item }} and type(reply) ~= 'number' then
--% include "limit/take_reply.lua"
      end
--% endif
--% if running
      if left > 0 then
        answers[times - left + 1] = reply
        at, left = at + width, left - 1
      else
        replies[i] = reply
      end
--% else
      replies[i] = reply
--% endif
    end
    i = i + 1
  end
end
--% if reply_limits or counts_bytes
if {{ counts_items }} then
--% with written_limits = reply_limits, written_caps = ("bytes_read",)
--% include "limit/write_bytes.lua"
--% endwith
end
--% endif
if failed then call(unpack(failed)) end
--% if images
--% include "record/log_after_images.lua"
--% endif
--% if running
if runs and runs[1] == n then
  replies = { replies[1] }
elseif runs or grouped then
  local all, i = {}, 1
  while i <= n do
    local times = grouped and grouped[i]
    all[#all + 1] = times and { unpack(replies, i, i + times - 1) } or replies[i]
    i = i + (times or runs and runs[i] or 1)
  end
  replies = all
end
--% endif
