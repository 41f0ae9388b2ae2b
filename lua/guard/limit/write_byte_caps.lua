-- write_byte_caps: write one kind of caps of bytes, as far as calls or replies were counted.
-- in:  byte_caps
-- out: none
if byte_caps then
  for i = 1, #byte_caps do
    local cap = byte_caps[i]
    if cap.is_charged and cap.counter == {{ cap_number(written_cap) }} then
      call('SETRANGE', cap.key, cap.used_at, struct.pack('<dd', cap.used, cap.ends_us))
    end
  end
end
