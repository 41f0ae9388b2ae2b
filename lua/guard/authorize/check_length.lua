-- check_length: deny a call that gives a string, or an element, more bytes than a grant of its key
-- allows.
-- in:  first, command, base, walked, names, lengths, amount_of, argv, step, last, stop
-- out: amount, at, bytes, check, code, detail, lengths, place, value, work
local kinds = {{ lengthening }}
local at, how, place = first, string.match(kinds, '=(.)(.)', find(kinds, ',' .. command .. ',', 1, true) or #kinds)
place = base + (place or 0)
local is_element = how == {{ Lengthening.ELEMENTS }} or how == {{ Lengthening.ENTRY }}
--% if naming
  or how == {{ Lengthening.NAMES }}
--% endif
local function check(bytes)
  local name = walked[at]
  -- In a batch, the next command is in the place of a missing key.
  if not name or not names[1] then return end
--% if batch and not lengths
  lengths = lengths or {}
  if not is_element then lengths[names[how == {{ Lengthening.COPY }} and #names or how == {{ Lengthening.PAIRS }} and (at - first) / step + 1 or 1]] = bytes end
--% endif
  if bytes <= {{ least_bytes }} and not is_element then return end
  local bound, matched = is_element and {{ default_element_bytes }} or {{ default_value_bytes }}, false
  do
    local key = name
--% for plan in lengths
    if not matched then
--% with matchers = plan.matchers
--% include "authorize/match_any.lua"
--% endwith
      -- Elements that a grant bounds are checked one by one.
      if matched then bound = is_element and math.huge or {{ plan.max_bytes }} end
    end
--% endfor
  end
--% if naming
  if how == {{ Lengthening.NAMES }} then bound = {{ key_bytes }} end
--% endif
  if bytes > bound then
    key, code, detail, value, amount = name, 'VALUE_TOO_LARGE', 'key', name, amount_of('bytes', bytes, bound)
  end
end
local function length_of(name)
--% if batch
  -- Commands of the batch that come before may have made it longer.
  if lengths and lengths[name] then return lengths[name] end
--% endif
  local length = redis.pcall('STRLEN', name or '')
  if type(length) == 'number' then return length end
  -- A key of another type is the command's own error, and copied by another rule.
  return find(length.err, '^WRONGTYPE') and 0 or math.huge
end
--% if batch and not sandbox and lengths
local check_bound = check
local function check(bytes)
  if walked[at] and names[1] and not is_element then
    -- At most: a call may be denied, or do nothing, and bytes within a string do not shorten it.
    local held = names[how == {{ Lengthening.COPY }} and #names or how == {{ Lengthening.PAIRS }} and (at - first) / step + 1 or 1]
    local most = math.max(bytes, length_of(held))
    lengths = lengths or {}
    lengths[held] = most
  end
  check_bound(bytes)
end
--% endif
local bytes = #(argv[place] or '')
if is_element then
  for i = place + 1, stop do
    -- Readers get an entry whole.
    bytes = how == {{ Lengthening.ENTRY }} and bytes + #argv[i] or math.max(bytes, #argv[i])
  end
  check(bytes)
elseif how == {{ Lengthening.PAIRS }} then
  -- A string after each key.
  for i = 1, #names do
    check(#(argv[place] or ''))
    at, place = at + step, place + 2
  end
elseif how == {{ Lengthening.LONGEST }} or how == {{ Lengthening.COPY }} then
  -- The longest of the others, or the one that is copied to the last key.
  bytes = 0
  for i = how == {{ Lengthening.COPY }} and 1 or 2, how == {{ Lengthening.COPY }} and 1 or #names do bytes = math.max(bytes, length_of(names[i])) end
  if how == {{ Lengthening.COPY }} then at = last end
  check(bytes)
elseif how == {{ Lengthening.APPEND }} or how == {{ Lengthening.ARGUMENT }} then
  check(bytes + (how == {{ Lengthening.APPEND }} and length_of(names[1]) or 0))
elseif how then
  -- An offset: the server fills the string up to it.
  bytes = tonumber(argv[place] or '') or 0
  if how == {{ Lengthening.RANGE }} then
    bytes = bytes + #(argv[place + 1] or '')
  elseif how == {{ Lengthening.BIT }} then
    bytes = math.floor(bytes / 8) + 1
  else
    local bits = 0
    while place <= stop do
      local word = string.upper(string.match(string.sub(argv[place], 1, 32), '^%Z*'))
      local width = string.match(argv[place + 1] or '', '^%a(%d+)') or 0
      local times, offset = string.match(argv[place + 2] or '', '^(#?)(%d+)')
      if offset and word ~= 'GET' and word ~= 'OVERFLOW' then
        bits = math.max(bits, offset * (times == '#' and width or 1) + width)
      end
      place = place + (word == 'OVERFLOW' and 2 or word == 'GET' and 3 or 4)
    end
    bytes = math.ceil(bits / 8)
  end
  if bytes > {{ plain_bytes }} then work = work + math.max(0, bytes - length_of(names[1])) * {{ byte_work }} end
  check(bytes)
end
