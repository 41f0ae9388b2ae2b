-- find_expiry: find the expiry that a call sets, for check_values.
-- in:  command, base, stop, argv, names, word, now_us
-- out: expires_ms, is_removed   milliseconds from now; nil if the call sets none
--
-- What is no number is the command's own error.
local expires_ms, is_removed
do
  local expiries = {{ values.expiries }}
  local how, place = string.match(expiries, '=(.)(%d)', find(expiries, ',' .. command .. ',', 1, true) or #expiries)
  local function expires(how, at)
    local number = #(argv[at] or '') < 512 and at <= stop and tonumber(argv[at])
    if not number then return end
    if how == {{ Expiry.SECONDS }} or how == {{ Expiry.AT_SECONDS }} then number = number * 1000 end
    if how == {{ Expiry.AT_SECONDS }} or how == {{ Expiry.AT_MILLISECONDS }} then number = number - now_us / 1000 end
    expires_ms = math.max(expires_ms or number, number)
  end
  local at = place and base + place
  if how == {{ Expiry.NONE }} then
    is_removed = true
  elseif how == {{ Expiry.PAYLOAD }} then
    local is_time
    for i = at + 2, stop do is_time = is_time or word(i) == 'ABSTTL' end
    if tonumber(argv[at] or '') ~= 0 then expires(is_time and 'M' or 'm', at) end
  elseif how == {{ Expiry.OPTIONS }} or how == {{ Expiry.BEHIND_PAIRS }} then
    if how == {{ Expiry.BEHIND_PAIRS }} then at = at + 2 * #names end
    while at <= stop do
      local unit = string.match({{ values.expiry_words }}, ' ' .. string.gsub(word(at), '[^%u]', '') .. '=(.)')
      if word(at) == 'PERSIST' then
        is_removed = true
      elseif unit then
        at = at + 1
        expires(unit, at)
      end
      at = at + 1
    end
  elseif how then
    expires(how, at)
  end
end
