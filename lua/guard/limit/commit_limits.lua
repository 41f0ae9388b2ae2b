--% if numbers
--% filter spread("number_n", numbers)
call('SETRANGE', {{ names.state }}, 16, struct.pack({{ numbers_format }}, sequence, number_n))
--% endfilter
--% else
if recorded then call('SETRANGE', {{ names.state }}, 16, struct.pack('<d', sequence)) end
--% endif
--% for limit in limits
--% filter numbered(limit.number)
--% if limit.subject != "identity"
--% if batch
for subject, kept in pairs(counted_n) do
--% include "limit/write_subject.lua"
end
--% else
if subjects_n then
  for i = 1, #subjects_n do
    local subject, kept = subjects_n[i], kept_n[i]
--% include "limit/write_subject.lua"
  end
end
--% endif
--% elif limit.slot.kind == "ring" and batch
do
  local ring, head, taken = {{ names.state }}, head_n, taken_n
--% with offset = limit.slot.offset
--% include "limit/write_ring.lua"
--% endwith
end
--% elif limit.slot.kind == "ring"
if place_n then call('SETRANGE', {{ names.state }}, place_n, struct.pack('<d', now_us)) end
--% endif
--% endfilter
--% endfor
--% if batch
if passed > 0 then
--% endif
-- pcall, since a full or read-only server still reads: a time of use that cannot be noted only
-- ends an idle token sooner.
if not (now_us - used_us < {{ use_noted_us }}) then redis.pcall('SETRANGE', token_key, 8, struct.pack('<d', now_us)) end
--% if batch
end
--% endif
