-- set_expiry: give the keys that a command wrote an expiry, as grants of them ask.
-- in:  expiring
-- out: none
for at = 1, #expiring, 3 do
  local left_ms = call('PTTL', expiring[at])
  if left_ms == -1 then
    call('PEXPIRE', expiring[at], string.format('%.0f', expiring[at + 1]))
  elseif left_ms > expiring[at + 2] then
    call('PEXPIRE', expiring[at], string.format('%.0f', expiring[at + 2]))
  end
end
