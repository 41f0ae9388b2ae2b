-- authenticate_shard: read the state of a shard, a voucher if one came with the call, and the lease
-- of the token.
-- in:  token, state_key, tag, voucher
-- out: code, detail, value, at_us         set if the call is denied
--      lacks                              set if the token has no lease
--      asked_us, born_us, is_answered, is_same, last_us, layout, min_epoch, now_us, record, seq,
--      sequence, state, suspended, token_id, token_key, CREDITS, credit_N
--      token_asked_us, token_is_same, token_seq, token_state, token_state_key
--      mask, bindings, narrow, bindings_at, caps, caps_at, cap_count, life_us   of a bound token, see
--                                         read_bound
local token_key, record, is_answered
--% if bound_tokens
local mask, bindings, narrow, bindings_at, caps, caps_at, cap_count, life_us
--% endif
--% if token_account
local token_state_key, token_state, token_is_same, vouched
local token_seq, token_asked_us = 0, 0
--% filter expand("CREDITS", token_account.credits)
local CREDITS = {{ token_account.no_credits }}
--% endfilter
--% endif
--% filter expand("CREDITS", lease.own_account.credits)
local layout, suspended, min_epoch, seq, asked_us, born_us, sequence, last_us, CREDITS
--% endfilter
local state, is_same
repeat
  if #token > {{ max_token_bytes }} then code = 'TOKEN_UNKNOWN' break end
  state = call('GET', state_key)
  if state and #state == {{ lease.own_account.state_bytes }} then
--% filter expand("CREDITS", lease.own_account.credits)
    layout, suspended, min_epoch, seq, asked_us, born_us, sequence, last_us, CREDITS = struct.unpack({{ lease.own_account.hot_format }}, state)
--% endfilter
    is_same = layout == {{ lease.own_account.layout_number }}
  elseif state and #state >= {{ lease.shard_bytes }} then
    layout, suspended, min_epoch, seq, asked_us, born_us, sequence, last_us = struct.unpack('<dddddddd', state)
  else
--% include "lease/new_state.lua"
  end
--% if lease.own_account.credits
  -- Units of another set of limits are dropped.
  if not is_same then
--% filter expand("CREDITS", lease.own_account.credits)
    CREDITS = {{ lease.own_account.no_credits }}
--% endfilter
  end
--% endif
  -- A client that wrote something else restarts the sequence, which `audit log` shows.
  if not (sequence < {{ latest_us }} and sequence % 1 == 0) then sequence = 0 end
  local digest = redis.sha1hex(token)
  token_key = {{ shard_token }} .. digest
  record = call('GET', token_key)
  if voucher then
--% include "lease/read_voucher.lua"
    if code then break end
  end
  -- What is shorter is no record.
  lacks = true
  if record and #record >= {{ lease.record_bytes }} then
    local expires_us, epoch, granted_us, stamp
    expires_us, epoch, granted_us, stamp, token_id = struct.unpack('<ddddc12', record)
    -- The clock as in check_token: the record outlives the lease by a fixed time.
    now_us = expires_us + {{ keep_record_us }} - call('PTTL', token_key) * 1000
    -- Written so that NaN is denied. What was granted in the future was granted before the clock
    -- went back. With another stamp it was granted to the guards of another policy; from before the
    -- birth of the state, its epoch may be one that the state has lost.
    lacks = not (expires_us > now_us and expires_us < {{ latest_us }} and epoch >= min_epoch and stamp == {{ stamp }} and granted_us >= born_us and granted_us <= now_us + {{ lease.skew_us }})
--% if bound_tokens
    local restrictions_at = {{ lease.record_bytes + 1 }}
--% if has_paths
    -- The ids of the ancestors of a child.
    local length = string.byte(record, restrictions_at) or 0
    token_id = string.sub(record, restrictions_at + 1, restrictions_at + length) .. token_id
    restrictions_at = restrictions_at + 1 + length
--% endif
    if not lacks and #record >= restrictions_at then
      -- Behind as many bytes as at the home: places in them are counted from there.
      record = string.sub(record, restrictions_at - {{ record_bytes }})
--% include "authenticate/read_bound.lua"
      -- The home counts; here it is known which counters have a cap.
      if caps then
        caps = {}
        for at = caps_at, caps_at + (cap_count - 1) * {{ cap_bytes }}, {{ cap_bytes }} do caps[string.byte(record, at)] = true end
      end
    end
--% endif
  end
  if lacks then
    local time = call('TIME')
    now_us = time[1] * 1000000 + time[2]
  end
  if not (now_us >= last_us) then
--% include "lease/move_clock.lua"
  end
--% if token_account
  if {{ has_units }} then
--% with account = token_account
--% filter of_account(account.of)
--% include "lease/read_credit.lua"
--% endfilter
--% endwith
  end
--% endif
--% for limit in lease.leased
--% filter suffix(limit.number)
  if not (now_us < until_N) then credit_N = 0 end
--% endfilter
--% endfor
  if suspended ~= 0 and not lacks then
--% include "authenticate/check_suspended.lua"
  end
until true
