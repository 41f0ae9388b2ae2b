-- write_token_grant: charge the limits per token, and write down the grant.
-- in:  shard, token_seq, token_asked_us, token_is_same, token_entry_asked_us, token_granted_us,
--      token_leases, epoch, record, now_us, amount_N, last_N, caps_N, subject_N, ends_N, used_N, head_N, tat_N
-- out: token_entry_asked_us, token_granted_us
if token_is_same then
  token_entry_asked_us = math.max(token_asked_us, token_entry_asked_us)
else
  token_entry_asked_us, token_granted_us = token_asked_us, now_us
--% for limit in token_account.leased
--% filter suffix(limit.number)
--% if limit.subject == "cap"
  for i = 1, #caps_N do
    local of_key, at, _, used, ends_us = unpack(caps_N[i], 1, 5)
    call('SETRANGE', of_key, at + {{ cap_used_at }}, struct.pack('<dd', used + used_N - caps_N.used, ends_us))
--% if delegate
    local cap = caps_N[i]
    if cap.name and amount_N > 0 then
      call('HSET', cap.name, '{{ cap_number(limit.counter) }}', struct.pack('<dd', cap.spare + last_N, cap.window))
      call('PEXPIREAT', cap.name, string.format('%.0f', (cap.holder[4] + {{ keep_record_us }}) / 1000))
    end
--% endif
  end
--% else
--% with batch = true
  do
    local subject = subject_N
--% if limit.slot.kind == "budget"
    local is_charged, kept = used_N > 0, { ends_N, used_N }
--% elif limit.slot.kind == "gcra"
    local is_charged, kept = amount_N > 0, tat_N
--% else
    -- Units fill their places until they can no longer be used, and a period from then.
    local is_charged, kept, now_us = amount_N > 0, { head_N, amount_N }, now_us + {{ limit.life_us }}
--% endif
    if is_charged then
--% include "limit/write_subject.lua"
    end
  end
--% endwith
--% endif
--% endfilter
--% endfor
end
--% filter expand("GRANTS", token_account.grants)
call('HSET', token_leases, shard, struct.pack({{ token_account.entry_format }}, token_seq, token_entry_asked_us, token_granted_us, {{ stamp }}, epoch, GRANTS))
--% endfilter
-- As long as the record of the token.
call('PEXPIREAT', token_leases, string.format('%.0f', (struct.unpack('<d', record) + {{ keep_record_us }}) / 1000))
