-- set_expiry: give the keys that a command wrote an expiry, as grants of them ask.
-- in:  expiring, reply
-- out: none
--
-- After an error, or a reply that says that nothing changed, the keys may be of another program.
local function is_idle(reply, how)
  if type(reply) == 'table' then
    if reply.err or how == 'a' then return true end
    if how ~= 'e' then return false end
    for i = 1, #reply do
      if not is_idle(reply[i], 'n0') then return false end
    end
    return true
  end
  local of = not reply and 'n' or type(reply) == 'number' and reply <= 0 and '0' or type(reply) == 'string' and 't'
  return how == 'a' or how and of and find(how, of, 1, true)
end
for at = 1, is_idle(reply, expiring.idle) and 0 or #expiring, 3 do
  local left_ms = call('PTTL', expiring[at])
  if left_ms == -1 then
    call('PEXPIRE', expiring[at], string.format('%.0f', expiring[at + 1]))
  elseif left_ms > expiring[at + 2] then
    call('PEXPIRE', expiring[at], string.format('%.0f', expiring[at + 2]))
  end
end
