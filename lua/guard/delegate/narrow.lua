-- narrow: join the restrictions of the parent and of the words, and refuse those that widen.
-- in:  words, record, bindings, bindings_at, chain_at, mask, narrow, cap_count
-- out: tail
--
-- The child has the bindings of both, the classes and keys of the words or else of the parent, and
-- the caps of the words: those of its ancestors count its calls too. `granted` has the class bits of
-- each pattern, and the pattern with the names of captures between two bytes 0xFF.
local sub, match, band = string.sub, string.match, bit.band
local granted = {
--% for bits, pattern in delegation.delegable
  {{ bits }}, {{ pattern }},
--% endfor
}
local bind, names, bound, given = {}, {}, {}, 0
for name, value in string.gmatch(bindings and sub(record, bindings_at, (chain_at or 0) - 1) or '', '([^:=]+)=([^:]*)') do
  bind[name], names[#names + 1] = value, name
end
for i = 1, #words.bind do
  local name, value = match(words.bind[i], '^([a-z_][a-z0-9_]*)=([^:]+)$')
  if not name or #value > {{ delegation.max_text_bytes }} or #names >= {{ delegation.max_items }} or (bind[name] or value) ~= value then return 'bind', words.bind[i] end
  if not bind[name] then bind[name], names[#names + 1] = value, name end
end
for i = 1, #granted, 2 do
  local has_all = true
  for n = 1, #names do
    has_all = has_all and find(granted[i + 1], '\255' .. names[n] .. '\255', 1, true)
  end
  if has_all then
    bound[#bound + 1], bound[#bound + 2] = granted[i], granted[i + 1]
    given = bit.bor(given, granted[i])
  end
end
if not bound[1] then return 'bind', words.bind[1] end

local classes = mask or {{ all_classes }}
if words.allow[1] then
  local bits, wanted = {
--% for name, bits in delegation.class_bits
    {{ name }}, {{ bits }},
--% endfor
  }, 0
  for i = 1, #words.allow do
    local class
    for n = 1, #bits, 2 do
      if bits[n] == words.allow[i] then class = bits[n + 1] end
    end
    if not class or band(given, classes, class) == 0 then return 'allow', words.allow[i] end
    wanted = bit.bor(wanted, class)
  end
  classes = wanted
end

--% include "authorize/may_match.lua"
local keys_at = {{ tail_at }} + (cap_count or 0) * {{ cap_bytes }}
local packed, key_count = narrow and sub(record, keys_at, bindings_at - 1) or '', narrow or 0
if words.keys[1] then
  packed = ''
  for i = 1, #words.keys do
    local text, is_open = words.keys[i], sub(words.keys[i], -1) == '*'
    if is_open then text = sub(text, 1, -2) end
    local bare = string.gsub(string.gsub(text, '[{][{]', ''), '[}][}]', '')
    if find(bare, '[{}*]') or text == '' and not is_open then return 'keys', words.keys[i] end
    text = string.gsub(string.gsub(text, '[{][{]', '{'), '[}][}]', '}')
    if #text > {{ delegation.max_text_bytes }} then return 'keys', words.keys[i] end
    local is_within, at = key_count == 0, keys_at
    for _ = 1, key_count do
      local is_prefix, length = string.byte(record, at, at + 1)
      if not length or is_within then break end
      local of_parent = sub(record, at + 2, at + 1 + length)
      is_within = is_prefix == 1 and sub(text, 1, length) == of_parent or is_prefix ~= 1 and not is_open and text == of_parent
      at = at + 2 + length
    end
    local is_granted = false
    for n = 1, #bound, 2 do
      is_granted = is_granted or band(bound[n], classes, {{ delegation.key_classes }}) > 0 and may_match(text, is_open, bound[n + 1], bind)
    end
    if not (is_within and is_granted) then return 'keys', words.keys[i] end
    packed = packed .. string.char(is_open and 1 or 0, #text) .. text
  end
  key_count = #words.keys
end

local caps, counted = '', {}
for i = 1, #words.budget do
  local name, limit, unit, period = match(words.budget[i], '^([%l_]+)=(%d+)(%l*)(.*)$')
  local counter, period_us, unit_bytes
--% for item, number in delegation.cap_counters
  if name == {{ item }} then counter = {{ number }} end
--% endfor
  if find(name or '', '^bytes_') then
--% for item, count in delegation.byte_units
    if unit == {{ item }} then unit_bytes = {{ count }} end
--% endfor
  elseif unit == '' then
    unit_bytes = 1
  end
  if period == '' then period_us = 0 end
--% for item, length_us in delegation.cap_periods
  if period == {{ item }} then period_us = {{ length_us }} end
--% endfor
  local most = (tonumber(limit) or 0) * (unit_bytes or 0)
  if not counter or not period_us or counted[counter] or #limit > 16 or most < 1 or most > {{ delegation.max_cap }} then return 'budget', words.budget[i] end
  counted[counter] = true
  caps = caps .. struct.pack({{ cap_format }}, counter, most, period_us, 0, 0)
end
for n = 1, #names do names[n] = names[n] .. '=' .. bind[names[n]] end
local tail = struct.pack({{ delegation.tail_header }}, classes, #names, key_count, #words.budget, {{ tail_at }} + #caps + #packed)
  .. caps .. packed .. ':' .. table.concat(names, ':') .. ':'
