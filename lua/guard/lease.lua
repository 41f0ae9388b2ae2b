--- lease: grant a shard the use of a token for a while, and units of the limits of one identity.
---
--- KEYS      none is read; the first is the guard record, whose slot the call is routed by
---
--- ARGV[1]   token        string
--- ARGV[2]   correlation  string  copied into denials, up to 256 bytes; perhaps `<source>\n` before it
--- ARGV[3]   request      string  of a shard, signed; "" replies with the records of the token
--- ARGV[4]   command      string  that the shard was asked for, copied into denials
--- ARGV[5]   key          string  its first key, copied into denials
--- ARGV[4…]  after "delegate" or "renew" as the request the words are those of batch.lua
---
--- Replies   the voucher, signed | LEASH <CODE> key=value …
---           for "": the time, the token's record, the state
---           for "delegate" and "renew": as batch.lua for these modes
---
--- The state is that of the guard on one server. A request that is repeated gets the same grant
--- again; a voucher counts only at the shard, and for the asking, that it answers. So whatever is
--- lost, repeated or reordered between shard and home, no unit is used twice.
local call, find = redis.call, string.find
local argv = ARGV
local token, correlation, request = argv[1] or '', argv[2] or '', argv[3] or ''
local command, key = argv[4] or '', argv[5]
local code, detail, value, amount, reason, at_us, token_id, now_us
--% if audit.source
--% include "record/take_source.lua"
--% endif
if #correlation > 256 then correlation = string.sub(correlation, 1, 256) end
-- There the words are no command and key.
if request == 'delegate' or request == 'renew' then command, key = string.upper(request), nil end
repeat
  -- An error while the slot of the home moves key by key, so that nothing is granted twice.
  local found = call('EXISTS', {{ names.state }}, {{ lease.key }})
--% include "authenticate.lua"
  if code then break end
  if found ~= 2 then code = 'NOT_ACTIVE' break end
  if request == '' then
--% include "reply/describe_token.lua"
  end
--% if delegate
  if request == 'delegate' then
    -- A batch of no command, that is counted and recorded here.
    local keys = {}
--% with batch = true, cap_plans = (), token_account = none
--% include "authorize/batch_locals.lua"
--% include "delegate/delegate.lua"
--% endwith
    break
  end
--% endif
--% if renews
  if request == 'renew' then
    local keys = {}
--% with batch = true, cap_plans = (), token_account = none, masks = false
--% include "authorize/batch_locals.lua"
--% include "lease/renew.lua"
--% endwith
    break
  end
--% endif
--% if not (delegate and renews)
  if request == 'delegate' or request == 'renew' then
    -- As the mode of a batch on one server.
    code, detail, value, reason = 'COMMAND_REFUSED', 'mode', request, request
    break
  end
--% endif
--% include "lease/read_request.lua"
  if code then break end
--% include "lease/grant.lua"
  if code then break end
--% include "lease/write_grant.lua"
  return voucher .. ':' .. redis.sha1hex({{ lease.mac_outer }} .. redis.sha1hex({{ lease.mac_inner }} .. {{ lease.voucher_start }} .. voucher))
until true
--% include "reply/deny.lua"
return { err = line }
