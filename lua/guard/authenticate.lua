-- authenticate: check that the identity may act and the token is valid; read the state.
-- in:  token
-- out: code, detail, value, at_us         set if the call is denied
--      now_us, token_id, token_key, record, used_us, sequence, STATE_NUMBERS
--      mask, bindings, narrow, bindings_at   of a bound token, see read_bound
--      caps, caps_at, cap_count, life_us  of a token with caps; `byte_caps` follows in check_caps
--      chain_at, ancestors, is_rotated    where tokens delegate, see read_flags and check_chain
local token_key, record, used_us, sequence
--% if bound_tokens
local mask, bindings, narrow, bindings_at, caps, caps_at, cap_count, life_us, byte_caps
--% endif
--% if delegate
local chain_at, ancestors, is_rotated
--% endif
--% if numbers
--% filter expand("STATE_NUMBERS", numbers)
local STATE_NUMBERS
--% endfilter
--% endif
repeat
--% if layout.has_rings
  local state = call('GETRANGE', {{ names.state }}, 0, {{ layout.header_bytes - 1 }})
  if state == '' then code = 'NOT_ACTIVE' break end
--% else
  local state = call('GET', {{ names.state }})
  if not state then code = 'NOT_ACTIVE' break end
--% endif
  -- A shorter state is another guard's; unpacking it would fail before its stamp is seen.
  if #state < {{ layout.header_bytes }} then code = 'POLICY_STALE' break end
  local stamp, suspended
--% filter expand("STATE_NUMBERS", numbers)
  stamp, suspended, sequence, STATE_NUMBERS = struct.unpack({{ state_format }}, state)
--% endfilter
  if stamp ~= {{ stamp }} then code = 'POLICY_STALE' break end
  -- A client that wrote something else restarts the sequence, which `audit log` shows.
  if not (sequence < {{ latest_us }} and sequence % 1 == 0) then sequence = 0 end
--% include "authenticate/read_token.lua"
  -- What is shorter is no record.
  if not record or #record < {{ record_bytes }} then code = 'TOKEN_UNKNOWN' break end
  local expires_us, revoked
  expires_us, used_us, revoked, token_id = struct.unpack('<ddBc12', record)
--% if delegate
  if revoked ~= 0 then
--% include "authenticate/read_flags.lua"
  end
--% elif bound_tokens
  if revoked == {{ bound_flag }} then
    revoked = 0
--% include "authenticate/read_bound.lua"
  end
--% endif
--% include "authenticate/check_token.lua"
--% if delegate
  if chain_at and not code then
--% include "authenticate/check_chain.lua"
  end
--% endif
  -- Last, so that the reason of a suspension reaches the holders of valid tokens alone.
  if suspended ~= 0 and not code then
--% include "authenticate/check_suspended.lua"
  end
until true
