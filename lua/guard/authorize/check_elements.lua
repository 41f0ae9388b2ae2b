-- check_elements: find how many elements a call leaves in a key, and check the bytes of each.
-- in:  name, held, how, command, bytes, elements, size, is_same, is_fresh, by, from, final, width,
--      shift, nothing, most, argv, names, base, stop, place, lengthen, length_of
-- out: is_replaced, was
--
-- Elements that come from a key whose own bound is no larger are not read.
if how == {{ Writes.NOTHING }} then
--% if Writes.UNKNOWN in values.hows
elseif how == {{ Writes.UNKNOWN }} then
  -- A command of a module, or of a later server: its elements are not known.
  if elements < huge then return deny(name, 'max_elements', elements, 'unknown') end
  for at = base + 1, stop do check_bytes(name, #argv[at], bytes) end
--% endif
--% if values.writes_numbers
elseif how == {{ Writes.NUMBER }} then
  check_bytes(name, {{ values.number_bytes }}, bytes)
--% if adding_bytes
  lengthen(held, {{ values.number_bytes }})
--% endif
elseif how == {{ Writes.SKETCH }} then
  check_bytes(name, {{ values.sketch_bytes }}, bytes)
--% if adding_bytes
  lengthen(held, {{ values.sketch_bytes }})
--% endif
elseif how == {{ Writes.FLOAT }} or how == {{ Writes.FIELD_FLOAT }} then
  if was and how == {{ Writes.FIELD_FLOAT }} then
    was = size + 1
    if was > elements and is_same and redis.pcall(by, held, argv[from] or '') == 1 then was = size end
  end
  if how == {{ Writes.FIELD_FLOAT }} then check_bytes(name, #(argv[from] or ''), bytes) end
  local longest = {{ values.float_bytes }}
  if bytes < longest then
    local text, number = argv[how == {{ Writes.FLOAT }} and from or from + 1] or '', ''
    local length = how == {{ Writes.FLOAT }} and redis.pcall('STRLEN', held) or how == {{ Writes.FIELD_FLOAT }} and redis.pcall('HSTRLEN', held, argv[from] or '')
    -- A key of another type is the command's own error.
    if type(length) == 'table' and find(length.err, '^WRONGTYPE') then length = 0 end
    if type(length) == 'number' and length > 0 and length <= 64 then number = how == {{ Writes.FLOAT }} and redis.pcall('GET', held) or how == {{ Writes.FIELD_FLOAT }} and redis.pcall('HGET', held, argv[from] or '') or '' end
    local is_plain = is_fresh and type(length) == 'number' and length <= 64 and type(number) == 'string' and not find(text .. number, '[^%d.+-]')
    if is_plain then longest = math.max(#text, #number) + {{ values.float_more_bytes }} end
    check_bytes(name, longest, bytes)
  end
--% if adding_bytes
  if how == {{ Writes.FLOAT }} then lengthen(held, longest) end
--% endif
--% endif
--% if Writes.MOVED in values.hows
elseif how == {{ Writes.MOVED }} then
  if names[1] ~= names[2] then
    if was then was = size + 1 end
    local bound = (rules_of(walked[first]))
    if bytes < bound then
      local element = is_fresh and redis.pcall('LINDEX', names[1], place ~= '0' and word(base + place) == 'LEFT' and 0 or -1)
      if not is_fresh then
        check_bytes(name, bound, bytes)
      elseif type(element) == 'string' then
        check_bytes(name, #element, bytes)
      elseif element and not find(element.err, '^WRONGTYPE') then
        check_bytes(name, huge, bytes)
      end
    end
  end
--% endif
--% if Writes.WHOLE in values.hows
elseif how == {{ Writes.WHOLE }} then
  if names[1] ~= names[2] then
    local theirs, their_kind = state_of(names[1])
    is_replaced = true
    if was then was = theirs end
    if their_kind == 'string' then check_whole(name, names[1], 0, 'string', bytes) end
    local bound = (rules_of(walked[first]))
    if bytes < bound and their_kind ~= 'string' and is_fresh then
      check_whole(name, names[1], theirs, their_kind, bytes)
    elseif bytes < bound and not is_fresh then
      check_bytes(name, bound, bytes)
    end
--% if adding_bytes
    check_bytes(name, length_of(names[1]), bytes)
    lengthen(held, length_of(names[1]))
--% endif
  end
--% endif
--% if Writes.PAYLOAD in values.hows
elseif how == {{ Writes.PAYLOAD }} then
  is_replaced = true
  local is_measured = was or bytes < huge
--% if adding_bytes
  is_measured = true
--% endif
  if is_measured then
    -- A payload is compressed, so it is stored where no one reads it, and measured there.
    local made = redis.pcall('RESTORE', {{ names.scratch }}, '0', argv[from] or '', 'REPLACE')
    if made.ok then
      local theirs, their_kind = state_of({{ names.scratch }})
      if was then was = theirs end
      if bytes < huge and (not was or was <= elements) then check_whole(name, {{ names.scratch }}, theirs, their_kind, bytes) end
--% if adding_bytes
      if their_kind == 'string' then lengthen(held, call('STRLEN', {{ names.scratch }})) end
--% endif
      redis.pcall('DEL', {{ names.scratch }})
    elseif not find(made.err, '^ERR Bad data format') and not find(made.err, '^ERR DUMP payload') and (was and elements < huge or bytes < huge) then
      deny(name, was and elements < huge and 'max_elements' or 'max_bytes', was and elements < huge and elements or bytes, 'unknown')
    end
  end
--% endif
--% if Writes.RESULT in values.hows
elseif how == {{ Writes.RESULT }} then
--% include "authorize/check_result.lua"
--% endif
else
  local count = how == {{ Writes.ENTRY }} or how == {{ Writes.VECTOR }}
  local grown = count and 1 or how == {{ Writes.WORDS }} and 0 or math.max(0, math.floor((final - from) / width) + 1)
  if was then
    was = min(size + grown, most)
    if was > elements and by then
      local seen, new = {}, 0
      for at = from + shift, nothing and 0 or final, width do
        local id = argv[at]
        if not seen[id] then
          seen[id] = true
          local there = is_same and redis.pcall(by, held, id)
          if there ~= 1 and type(there) ~= 'string' then new = new + 1 end
        end
      end
      was = size + new
    end
  end
  if bytes < huge then
    for at = from + shift, final, shift > 0 and width or 1 do check_bytes(name, #argv[at], bytes) end
    if how == {{ Writes.FIELD_NUMBER }} then check_bytes(name, {{ values.number_bytes }}, bytes) end
  end
end
