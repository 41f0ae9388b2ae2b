-- sandbox: bound the work of a script. A round of a loop, a call and 64 bytes of text are a unit, and a
-- round has further units for the length of its body.
-- in:  none
-- out: steps, spend, made, size, sizes, counted, tick, ticks, numeral, numerals, numeric, key_of, odd_keys, join, base,
--      compared, whole, method, measure, strings
--
-- Once the units are used up, every further round raises, so `pcall` cannot go on.
local steps, odd_keys = 0, 0
local function spend(units)
  steps = steps + units
  if not (steps <= {{ work_limit }}) then error({ err = 'LEASH WORK_TOO_LARGE' }, 0) end
end
-- Numbers as keys may all have one place in a table, where each access passes all of them.
local function tick(units)
  steps = steps + units * (1 + odd_keys / 64)
  if steps > {{ work_limit }} then spend(0) end
end
local function ticks(...)
  spend(1 + select('#', ...) / 8)
  return ...
end
-- Each text that a function returns may collide with others.
local function made(...)
  local parts = { ... }
  for at = 1, select('#', ...) do
    if type(parts[at]) == 'string' then spend({{ string_units }}) end
  end
  return ...
end
local function size(item) return type(item) == 'string' and #item or 24 end
local function sizes(...)
  local parts, bytes = { ... }, 0
  for at = 1, select('#', ...) do bytes = bytes + size(parts[at]) end
  return bytes
end
-- A function that counts as many bytes as `bytes` says.
local function counted(run, bytes)
  return function(...)
    spend(3 + bytes(...) / 64)
    return made(run(...))
  end
end
-- A text that is used as a number is read each time.
local function numeral(item)
  if type(item) == 'string' then spend(2 + #item / 64) end
  return item
end
local function numerals(...)
  local parts = { ... }
  for at = 1, select('#', ...) do numeral(parts[at]) end
end
local function numeric(run)
  return function(...)
    local first, second = ...
    steps = steps + 1
    if type(first) == 'string' or type(second) == 'string' or select('#', ...) > 2 then numerals(...) end
    return run(...)
  end
end
-- The key of a member that is written. Integers as far as a list may have them hardly share a place.
local function key_of(item)
  if type(item) == 'number' and not (item >= 0 and item <= {{ work_limit }} / 4 and item % 1 == 0) then
    odd_keys = odd_keys + 1
    spend(1 + odd_keys / 64)
  end
  -- The same is true of texts that collide.
  if type(item) == 'string' then odd_keys = odd_keys + 1 / 16 end
  return item
end
local function join(...)
  local parts, units = { ... }, 3 + {{ string_units }}
  for at = 1, select('#', ...) do
    local part = parts[at]
    local is_number = type(part) == 'number'
    if not is_number and type(part) ~= 'string' then error('attempt to concatenate a ' .. type(part) .. ' value', 0) end
    units = units + (is_number and 5 + {{ string_units }} or 0.5 + #part / 64)
  end
  spend(units)
  return table.concat(parts)
end
-- The left side of a comparison of two texts. No more bytes are compared than it has.
local function compared(item)
  if type(item) == 'string' then spend(#item / 16) end
  return item
end
-- C functions take numbers modulo 2^32, so a count of their work would be that of another number.
local function whole(item)
  local number = tonumber(numeral(item))
  if number and not (number > -0x80000000 and number < 0x80000000) then error('number out of range', 0) end
  return number
end
local strings = {}
local function base(item)
  if type(item) == 'string' then return strings end
  return item
end
local function method(item, name, ...) return base(item)[name](item, ...) end
-- A table that is named twice is sent twice, so what is small may become large. All tables together
-- have at most as many empty places as units were used, and one that is named twice may have them all.
local function measure(item, depth, seen)
  spend(1 + size(item) / 64)
  if type(item) == 'table' then
    if depth > 100 then error('the value is nested too deeply', 0) end
    if not seen or seen[item] then spend(steps / 80) end
    seen = seen or {}
    seen[item] = true
    for name, part in pairs(item) do
      measure(name, depth + 1, seen)
      measure(part, depth + 1, seen)
    end
  end
end
