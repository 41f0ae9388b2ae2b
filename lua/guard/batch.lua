--- batch: check many commands of one identity in one call and run those that are allowed.
---
--- KEYS      the data keys of all commands, in their order
---
--- ARGV[1]   token        string
--- ARGV[2]   correlation  string  copied into events, up to 256 bytes; perhaps `<source>\n` before it
--- ARGV[3]   mode         string  "each": a denial takes its command's place
---                                "all": one denial denies the whole batch, and nothing runs
---                                "whoami": no command; the reply describes the token
---                                "delegate": no command; the token makes a child
---                                "renew": one item, RENEW, and a life in seconds or ""
---                                "check": as "all", but nothing is charged or runs, and only denials
---                                that depend on what keys hold are recorded
---                                "prepare": on a cluster, the same, and a denial is recorded
--- ARGV[4…]  for each command: how many arguments it has with its name, its name in upper
---           case, its arguments; or for a run of commands with the same name and number of
---           arguments, whose only key is the first one: `<number of arguments>*<commands>`, the
---           name, the place of the first key in KEYS, and the other arguments of all
---           before the mode perhaps `once` and an idempotency id
---           on a cluster at the end one more: the tag of the shard, or a voucher
---           for a delegation: the digest of the child, its life in seconds or "", and the kind and
---           text of each restriction or label: `bind`, `job_id=42`
---
--- Replies   an array of the commands' own replies, or denials | LEASH <CODE> key=value …
---           For a run an array of its replies; if these are equal and no arrays, one of them.
---           delegate: when the child expires (Unix ms), its id
---           whoami: the time, the token's record, the state, the record of each limit per token, and
---           if the token may be renewed, until when it may live, and the life it was issued with
---           renew: the time, the token's id, when it expires (Unix ms), 1 if max_ttl shortened its
---           life or 0
---
--- Token, clock, state and limits are read and written once. All commands are checked before
--- the first one runs, and one event lists those that change something.
local call, find, type, unpack, tonumber = redis.call, string.find, type, unpack, tonumber
local keys, argv = KEYS, ARGV
--% if cluster
--% include "lease/shard_locals.lua"
--% endif
--% if idempotency
--% include "authenticate/take_id.lua"
--% endif
local token, correlation, mode = argv[1] or '', argv[2] or '', argv[3]
local code, detail, value, amount, reason, at_us, token_id, key, now_us, item
local command, is_check = 'BATCH', mode == 'check'
if #argv > {{ many_arguments }} then collectgarbage('step', {{ collected_kib }}) end
--% if breaker
local suspends
--% endif
--% if audit.source
--% include "record/take_source.lua"
--% endif
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
repeat
--% if cluster
--% include "authenticate_shard.lua"
--% else
--% include "authenticate.lua"
--% endif
  if code then break end
--% if idempotency
  if once and mode ~= 'each' and mode ~= 'all' then
    code, detail, value = 'COMMAND_REFUSED', 'mode', mode or ''
    break
  end
--% endif
--% if renews
  -- As a batch that runs whole or not at all, so that it is charged and recorded as one.
  local is_renewal, is_capped, renewed_us = mode == 'renew' and argv[4] ~= nil
  if is_renewal then mode = 'all' end
--% endif
  local is_dry = is_check
--% if cluster
  -- Before a transaction of the server, within which a call that needs a lease cannot come again.
  is_dry = is_check or mode == 'prepare'
--% endif
  if is_dry then mode = 'all' end
  if mode ~= 'each' and mode ~= 'all' then
--% if not cluster
    if mode == 'whoami' then
--% include "reply/describe_token.lua"
    end
--% endif
--% if delegate
    if mode ~= 'delegate' then
--% endif
    code, detail, value = 'COMMAND_REFUSED', 'mode', mode or ''
    -- Only words of the guard's own name a kind of denial.
    if mode == 'delegate' or mode == 'renew' then command, reason = string.upper(mode), mode end
    break
--% if delegate
    end
--% endif
  end
--% if idempotency
--% include "authenticate/find_reply.lua"
  local mutates, changes
--% endif
--% include "authorize/batch_locals.lua"
--% if delegate
  if mode == 'delegate' then
--% include "delegate/delegate.lua"
    break
  end
--% endif
--% if cluster
  local postponed = {}
  is_partial = mode == 'each'
  -- Without a lease of the token no command is looked at.
  if lacks then stop = #argv end
--% endif
  while argv[stop + 1] do
--% include "authorize/next_item.lua"
    repeat
--% include "authorize/command_locals.lua"
      repeat
--% if renews
        if is_renewal then
--% include "authorize/check_renewal.lua"
        else
--% endif
--% include "authorize.lua"
--% if renews
        end
--% endif
--% if idempotency
        mutates = recorded
--% endif
--% include "limit.lua"
      until true
--% if running
      if times and code then
--% include "authorize/expand_runs.lua"
        break
      end
--% endif
      if code then break end
--% include "authorize/accept_item.lua"
--% if idempotency
      changes = changes or mutates
--% endif
    until true
    if code then
--% if renews
      if is_renewal then break end
--% endif
      if mode == 'all' then
        if not is_check then item = n end
        break
      end
--% if cluster
      -- Recorded only when no lease is needed, since a call without a lease is repeated.
      replies[n], unheard[n], postponed[#postponed + 1] = true, true, { n, code, detail, value, amount, at_us, command, key, reason }
--% else
--% include "reply/deny.lua"
      replies[n], unheard[n] = { err = line }, true
--% endif
      code, detail, value, amount, reason = nil, nil, nil, nil, nil
    end
  end
--% if cluster
  if lacks and not code then
--% include "lease/ask.lua"
  end
--% endif
  if mode == 'all' and not code and (keys[count + 1] or passed_over > 0) then code, command, key = 'KEYS_MISMATCH', 'BATCH', nil end
  if code then break end
  if is_dry then return {} end
--% if idempotency
  if once then
    command, key = 'BATCH', nil
--% include "record/check_id.lua"
    if code then break end
  end
--% endif
--% if cluster
  for i = 1, #postponed do
    local of
    of, code, detail, value, amount, at_us, command, key, reason = unpack(postponed[i], 1, 9)
--% include "reply/deny.lua"
    replies[of] = { err = line }
    code, detail, value, amount, reason = nil, nil, nil, nil, nil
  end
--% endif

--% if plans
  -- As in check_size.
  if spent > {{ work_limit }} / 10 and {{ collects_after("now_us", "spent") }} then collectgarbage('step', {{ collected_kib }}) end
--% endif
--% include "record_batch.lua"
--% if renews
  if is_renewal then
--% include "reply/renew_token.lua"
  end
--% endif
--% if idempotency
--% include "record/remember_call.lua"
--% endif
--% include "reply_batch.lua"
--% if idempotency
  local reply = replies
--% include "reply/remember_reply.lua"
--% endif
  return replies
until true
--% include "reply/deny.lua"
return { err = line }
