-- read_bound: read where the restrictions of a token are in its record.
-- in:  record, expires_us
-- out: mask, bindings, narrow, bindings_at, caps, caps_at, cap_count, life_us, code
--
-- Behind the fields of every token: the allowed classes as bits, the numbers of bindings, keys and
-- caps, and the place of the bindings. Then the caps, the keys, and the bindings as
-- `:name=value:name=value:`. No name and no value has a colon. They are not taken apart here: each
-- string and table costs the call. What is malformed is
-- denied here, or matches no key.
if #record < {{ tail_at - 1 }} or #record > {{ most_record_bytes }} then code = 'TOKEN_UNKNOWN' break end
mask, bindings, narrow, cap_count, bindings_at = struct.unpack('<BBBBH', record, {{ record_bytes + 1 }})
if mask > {{ all_classes }} or {{ tail_at }} + cap_count * {{ cap_bytes }} > bindings_at or bindings_at > #record + 1 then code = 'TOKEN_UNKNOWN' break end
if cap_count > 0 then caps, caps_at, life_us = record, {{ tail_at }}, expires_us end
