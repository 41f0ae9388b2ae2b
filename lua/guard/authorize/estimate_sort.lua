-- estimate_sort: the number of elements of a SORT, and the sizes of the keys that its patterns name,
-- for `weigh`, which returns the denial of a pattern that may name other keys than granted ones.
-- in:  command, base, stop, argv, names, place, weight, left, word, ask, elements, usage
-- out: n, pushed, asked
n = elements()
pushed = n
local patterns, option, made = {}, nil, 1
local at = place
while at < stop do
  local name = word(at)
  if name == 'BY' or name == 'GET' then
    at = at + 1
    asked = asked + #argv[at] * {{ pattern_work }}
    if asked > left then return asked, 0 end
    -- The server replaces the first `*` by an element, which may be any text.
    local before, after = string.match(argv[at], '^([^*]*)%*(.*)$')
    if before or name == 'GET' then
      option = name
      made = made + (before and 1 or 0) + (name == 'GET' and 1 or 0)
      local suffix, field = string.match(after or '', '^(.-)%->(.+)$')
      patterns[#patterns + 1] = { #argv[at], before, suffix or after, field }
    end
--% if patterns
    if before then
--% include "authorize/check_pattern.lua"
    end
--% endif
  end
  at = at + 1
end
-- Elements and names are in Lua before the replies.
pushed = pushed * made
--% if batch
-- One key may be sorted often, by calls that each read few bytes.
if n * weight <= left then n = n + usage(names[1], n) end
--% else
if option and n * weight <= left then n = n + usage(names[1], n) end
--% endif
if option then
--% if patterns
  -- Without rights on all keys a server reads no pattern, and reports that before a wrong word.
  if find(redis.pcall(argv[base], names[1], 'GET', '#', '').err, 'insufficient ACL', 1, true) then
    return 0, 0, 'COMMAND_REFUSED', command .. ' ' .. option
  end
--% endif
  local work = n * weight
  asked = asked + work
  -- Not read only where `weigh` denies the call for the same sums: a stricter test here would let it
  -- pass unweighed. An error is the command's own.
  local found = max(work + asked, pushed * {{ string_units }}) <= left and redis.pcall(argv[base], names[1], 'BY', 'nosort') or {}
  for i = 1, #found do
    for j = 1, #patterns do
      local size, before, suffix, field = unpack(patterns[j], 1, 4)
      size = size + #found[i]
--% if not patterns or patterns[1:] or patterns[0].opens
      -- The name is put together here and in the server, which may take longer than reading a value.
      if before then asked = asked + {{ question_work }} + size * {{ string_work }} end
      if before and work + asked <= left then
        before = before .. found[i] .. suffix
        size = size + (field and ask('HSTRLEN', before, field) or ask('STRLEN', before))
      end
--% endif
      work = work + (field and {{ 3 * lookup_work }} or {{ lookup_work }}) + size * {{ string_work }}
      if not (work + asked <= left) then return work, asked end
    end
  end
  n = work / weight
end
