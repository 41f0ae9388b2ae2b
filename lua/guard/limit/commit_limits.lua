-- commit_limits: write the counters of all limits, the sequence number and the time of use of the
-- token.
-- in:  sequence, STATE_NUMBERS, recorded, counted_N, subjects_N, kept_N, head_N, taken_N, place_N,
--      now_us, passed, used_us, token_key, token_state_key
-- out: none
--% if numbers
--% if charging
-- What is not charged writes nothing: a server that is full or a replica still reads.
if recorded
--% for condition in charging
  or {{ condition }}
--% endfor
then
--% endif
--% filter expand("STATE_NUMBERS", numbers)
call('SETRANGE', {{ names.state }}, {{ numbers_at }}, struct.pack({{ numbers_format }}, sequence, STATE_NUMBERS))
--% endfilter
--% if token_account
--% if cap_plans
if token_state_key then
--% endif
--% filter expand("CREDITS", token_account.credits)
call('SETRANGE', token_state_key, {{ lease.shard_bytes }}, struct.pack({{ token_account.credits_format }}, CREDITS))
--% endfilter
--% if cap_plans
end
--% endif
--% endif
--% if charging
end
--% endif
--% else
if recorded then call('SETRANGE', {{ names.state }}, {{ numbers_at }}, struct.pack('<d', sequence)) end
--% endif
--% for limit in limits
--% filter suffix(limit.number)
--% if limit.has_counters
--% if batch
for subject, kept in pairs(counted_N) do
--% include "limit/write_subject.lua"
end
--% else
if subjects_N then
  for i = 1, #subjects_N do
    local subject, kept = subjects_N[i], kept_N[i]
--% include "limit/write_subject.lua"
  end
end
--% endif
--% elif limit.slot.kind == "ring" and batch
do
  local ring, head, taken = {{ names.state }}, head_N, taken_N
--% with offset = limit.slot.offset
--% include "limit/write_ring.lua"
--% endwith
end
--% elif limit.slot.kind == "ring"
if place_N then call('SETRANGE', {{ names.state }}, place_N, struct.pack('<d', now_us)) end
--% endif
--% endfilter
--% endfor
--% if counts_bytes
--% if batch
if caps and caps_at == 1 then call('SETRANGE', token_key, {{ text(tail_at - 1) }}, caps) end
--% else
if caps then call('SETRANGE', token_key, caps_at - 1, caps) end
--% endif
--% endif
--% if delegate
if ancestors then
  for i = 1, #ancestors do
    local caps, caps_at = ancestors[i][1], ancestors[i][2]
--% if batch
    if caps_at == 1 then call('SETRANGE', ancestors[i][5], {{ text(tail_at - 1) }}, caps) end
--% else
    if caps then call('SETRANGE', ancestors[i][5], caps_at - 1, caps) end
--% endif
  end
end
--% endif
--% if counts_bytes
--% with written_cap = "bytes_written"
--% include "limit/write_byte_caps.lua"
--% endwith
--% endif
--% if not cluster
--% if batch
if passed > 0 then
--% endif
-- pcall, since a full or read-only server still reads: a time of use that cannot be noted only
-- ends an idle token sooner.
if not (now_us - used_us < {{ use_noted_us }}) then redis.pcall('SETRANGE', token_key, 8, struct.pack('<d', now_us)) end
--% if batch
end
--% endif
--% endif
