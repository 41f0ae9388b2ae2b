--% if numbers
--% filter spread("number_n", numbers)
call('SETRANGE', {{ names.state }}, 16, pack({{ numbers_format }}, number_n))
--% endfilter
--% endif
--% for limit in limits
--% filter numbered(limit.number)
--% if limit.subject != "identity"
if subjects_n then
  for i = 1, #subjects_n do
    local subject, kept = subjects_n[i], kept_n[i]
--% if limit.slot.kind == "gcra"
    call('SET', subject, pack('<ddd', kept, 0, {{ limit.slot.pace_us }}), 'PX', string.format('%.0f', math.ceil((kept - now_us) / 1000)))
--% elif limit.slot.kind == "budget"
    call('SET', subject, pack('<ddd', kept[1], kept[2], {{ limit.slot.period_us }}), 'PX', string.format('%.0f', math.ceil((kept[1] - now_us) / 1000)))
--% else
    call('SETRANGE', subject, 0, pack('<ddd', kept[1], {{ limit.slot.capacity }}, {{ limit.slot.pace_us }}))
    call('SETRANGE', subject, kept[2], pack('<d', now_us))
    call('PEXPIRE', subject, {{ text(limit.slot.period_ms) }})
--% endif
  end
end
--% elif limit.slot.kind == "ring"
if place_n then call('SETRANGE', {{ names.state }}, place_n, pack('<d', now_us)) end
--% endif
--% endfilter
--% endfor
--% if idle_us is not none
if now_us - used_us >= 1000000 then call('SETRANGE', token_key, 8, pack('<d', now_us)) end
--% endif
