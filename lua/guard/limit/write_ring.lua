-- The slots that the batch took end before the head; they may wrap around.
local slots = math.min(taken, {{ limit.slot.capacity }})
local from = (head - slots) % {{ limit.slot.capacity }}
local unwrapped = math.min(slots, {{ limit.slot.capacity }} - from)
if slots > 0 then
  call('SETRANGE', ring, {{ offset }} + from * 8, string.rep(struct.pack('<d', now_us), unwrapped))
end
if slots > unwrapped then
  call('SETRANGE', ring, {{ offset }}, string.rep(struct.pack('<d', now_us), slots - unwrapped))
end
