-- check_values: deny a call that leaves values which a grant of their key does not allow.
-- in:  first, step, walked, names, command, base, argv, stop, now_us, fields, header, n, lengths,
--      after, expiring, gone, amount_of, left, work
-- out: after, amount, code, detail, expiring, gone, key, lengths, reason, value, work
--
-- An upper bound of the size comes from the key's present size and the arguments; only if it is too
-- large, elements that are there already are left out. In a batch, commands before this one change
-- sizes: upper bounds of these are remembered, and other contents then count as unknown.
local kinds = {{ governing }}
local target, how, place = string.match(kinds, '=(.)(.)(%d)', find(kinds, ',' .. command .. ',', 1, true))
local min, huge = math.min, math.huge
--% if batch and not sandbox
local is_fresh = fields == header
--% else
local is_fresh = true
--% endif

-- A word as a server compares it, as in estimate_work.
local function word(at) return string.upper(string.match(string.sub(at <= stop and argv[at] or '', 1, 32), '^%Z*')) end

local function rules_of(name)
  local key, matched = name, false
  local bytes, elements, default_ms, max_ms, is_absent = huge, huge, huge, huge, false
--% for plan in value_plans
  matched = false
--% with matchers = plan.matchers
--% include "authorize/match_any.lua"
--% endwith
  if matched then
--% if plan.max_bytes is not none
    bytes = min(bytes, {{ plan.max_bytes }})
--% endif
--% if plan.max_elements is not none
    elements = min(elements, {{ plan.max_elements }})
--% endif
--% if plan.default_ms is not none
    default_ms = min(default_ms, {{ plan.default_ms }})
--% endif
--% if plan.max_ms is not none
    max_ms = min(max_ms, {{ plan.max_ms }})
--% endif
--% if plan.is_absent
    is_absent = true
--% endif
  end
--% endfor
  return bytes, elements, min(default_ms, max_ms), max_ms, is_absent
end

-- The elements of a key at most, its type if it exists, and whether it has no others than now.
local function state_of(name)
--% if remembering
  if after and after[name] then return unpack(after[name], 1, 3) end
--% endif
  local kind = call('TYPE', name).ok
  if kind == 'none' then return 0, nil, true end
  if kind == 'string' then return 0, kind, true end
  local by = string.match({{ sizes }}, ' ' .. kind .. '=(%u+)')
  local size = by and redis.pcall(by, name)
  return type(size) == 'number' and size or huge, kind, true
end
--% if remembering
local function remember(name, size, kind, is_same)
  after = after or {}
  local known = after[name]
  after[name] = { known and math.max(known[1], size) or size, kind, is_same }
end
--% endif

local function deny(name, rule, limit, was)
  key, code, detail, value, reason = name, 'VALUE_REFUSED', 'key', name, rule
  if type(limit) == 'number' then limit = string.format('%.0f', limit) end
  if type(was) == 'number' then was = string.format('%.0f', min(was, 1e15)) end
  amount = ' rule=' .. rule .. ' limit=' .. limit .. ' was=' .. was
end
local function check_bytes(name, bytes, bound)
  if not (bytes <= bound) and not code then
    key, code, detail, value, amount = name, 'VALUE_TOO_LARGE', 'key', name, amount_of('bytes', bytes, bound)
  end
end
--% if adding_bytes
-- The bytes of a string at most, and those to which later commands of the batch may add.
local function length_of(name)
  local length = lengths and lengths[name] or redis.pcall('STRLEN', name)
  -- A key of another type is the command's own error.
  return type(length) == 'number' and length or find(length.err, '^WRONGTYPE') and 0 or huge
end
local function lengthen(name, bytes)
  if code then return end
  local most = math.max(bytes, length_of(name))
  lengths = lengths or {}
  lengths[name] = most
end
--% endif
--% if values.reads_values
-- Add the work of reading all of a key; return whether it may be read.
local function may_read(name, size)
  work = work + size * math.max(1, 2 * {{ string_units }})
  if not (work <= left) then return false end
  local usage = redis.pcall('MEMORY', 'USAGE', name, 'SAMPLES', string.format('%.0f', math.max(1, size)))
  work = work + (type(usage) == 'number' and usage or usage and huge or 0) * {{ string_work }}
  return work <= left
end
local function check_all(name, found, bound)
  if type(found) ~= 'table' or found.err then return check_bytes(name, huge, bound) end
  for i = 1, #found do
    if type(found[i]) == 'table' then check_all(name, found[i], bound) else check_bytes(name, #(found[i] or ''), bound) end
  end
end
--% endif
--% if values.reads_wholes
-- Check what one key holds as the value of another.
local function check_whole(name, held, size, kind, bound)
  if kind == 'string' then
    local bytes = redis.pcall('STRLEN', held)
    check_bytes(name, type(bytes) == 'number' and bytes or huge, bound)
  elseif kind and may_read(held, size) then
    check_all(name, kind == 'list' and redis.pcall('LRANGE', held, 0, -1)
      or kind == 'set' and redis.pcall('SMEMBERS', held)
      or kind == 'hash' and redis.pcall('HGETALL', held)
      or kind == 'zset' and redis.pcall('ZRANGE', held, 0, -1)
      or kind == 'stream' and redis.pcall('XRANGE', held, '-', '+'), bound)
  end
end
--% endif
--% include "authorize/find_elements.lua"
--% if values.expiries
--% include "authorize/find_expiry.lua"
--% endif
--% if values.rules.ttl
--% include "authorize/find_idle.lua"
--% endif
--% if Writes.DELETED in values.hows
if how == {{ Writes.DELETED }} then
  gone = gone or {}
  gone[n] = names
  return
end
--% endif
--% if remembering and Writes.WHOLE in values.hows
if command == 'RENAME' and names[2] and names[1] ~= names[2] then
  -- Whether it works or fails, the first key is then gone.
  gone = gone or {}
  gone[n] = { names[1] }
end
--% endif
for i = 1, #names do
  if target == {{ Target.ALL }} or i == target + 0 then
    local name, held = walked[first + (i - 1) * step], names[i]
    local bytes, elements, default_ms, max_ms, is_absent = rules_of(name)
    local size, kind, is_same
--% if remembering
    size, kind, is_same = state_of(held)
--% elif values.rules.elements or values.rules.absent
    if elements < huge or is_absent then size, kind, is_same = state_of(held) end
--% endif
--% if values.rules.absent
    if is_absent and kind then return deny(name, 'only', 'absent', 'present') end
--% endif
--% if values.rules.ttl
    if default_ms < huge then
--% if values.expiries
      if is_removed then return deny(name, 'ttl', max_ms < huge and max_ms or default_ms, 'none') end
      if expires_ms and not (expires_ms <= max_ms) then return deny(name, 'ttl', max_ms, expires_ms) end
--% endif
      expiring = expiring or {}
--% if batch
      local of = expiring[n] or {}
      expiring[n] = of
--% else
      local of = expiring
--% endif
      local last = #of
      of[last + 1], of[last + 2], of[last + 3] = held, default_ms, max_ms
      of.idle = idle
    end
--% endif
    local was, is_replaced = size, false
--% include "authorize/check_elements.lua"
--% if values.rules.elements
    if was and not (was <= elements) then deny(name, 'max_elements', elements, was) end
--% endif
    if code then return end
--% if remembering
    -- The command may fail, or do nothing: then the elements from before it are still there.
    remember(held, math.max(size, was), kind or 'any', is_same and not is_replaced)
--% endif
  end
end
