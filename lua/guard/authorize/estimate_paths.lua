-- estimate_paths: the work of a call with JSON paths, for `weigh`, which denies paths that may select
-- too much: `$..a..a..a..a` on 721 bytes takes all memory of a server.
-- in:  command, base, stop, argv, names, place, default, weight, strung, join, left, min, max, asked, arg,
--      usages, usage
-- out: asked
local step = command == 'JSON.GET' and 1 or command == 'JSON.MSET' and 3 or stop
local at, total, bytes, is_refused = command == 'JSON.MGET' and stop or place, 0, 0, false
for i = 1, stop do
  local path = arg(at)
  is_refused = is_refused or #path > {{ path_bytes }}
  -- A long one is not counted.
  if is_refused then path = '' end
  local function count(part)
    local _, found = string.gsub(path, part, '')
    return found
  end
  local descents, filters, lists = count('%.%.'), count('%?'), count(',')
  is_refused = is_refused or descents + filters > 1 or lists > {{ path_lists }} or count('[.%[]') > {{ path_steps }}
    or find(path, {{ long_place }}) or find(path, '=~', 1, true) or find(path, '\0', 1, true) or filters > 0 and find(path, '$', 2, true)
  local each = weight + 0
  local is_spread = descents > 0 or find(path, '[*?:,]')
  if is_spread then
    -- Others than those that return JSON look each value up again.
    local returns = find(command, '%.M?GET$')
    each = {{ branch_work }} * (1 + count('[@|&]')) * (returns and 1 or {{ path_lookups }})
    if descents > 0 then each = returns and {{ descent_work }} or {{ descent_lookups }} end
    each = each * 2 ^ lists
  end
  -- An element that enters or leaves an array moves all that follow, and strings are copied whole.
  local part, moves = find(command, '%.[AS][RT]R') and path or string.match(path, '^(.-)%.?%[[^%[%]]*%]%s*$'), 0
  local is_text = find(command, '.STR', 1, true)
  if command == 'JSON.ARRINSERT' then
    moves = stop - at - 1
  elseif command == 'JSON.STRAPPEND' or is_text and {{ batch }} then
    moves, part = {{ copied_elements }}, (command == 'JSON.STRLEN' or stop > at) and path or ''
  elseif {{ batch }} and find(' JSON.DEL JSON.FORGET JSON.ARRPOP JSON.ARRTRIM ', ' ' .. command .. ' ', 1, true) then
    moves = 1
  end
  if moves > 0 and part and names[1] and not (is_spread or is_refused) then
    local held = redis.pcall(is_text and 'JSON.STRLEN' or 'JSON.ARRLEN', names[1], part == '' and '.' or part)
    if type(held) == 'table' then held = held[1] end
    -- An error is the command's own.
    local units = moves * (tonumber(held) or 0) * {{ move_work }}
    asked, total = asked + {{ question_work }} + (is_text and units or 0), total + units
  end
  -- What a plain path selects is counted by its reply.
  local is_plain = {{ batch }} and command ~= 'JSON.ARRINDEX' and stop <= base + default and #path <= {{ path_steps }} and not find(path, '[^%w_.$]') and not is_spread
  if join == {{ Join.PRODUCT }} then
    local size = 0
    for value = at + 1, min(stop, at + max(1, step - 2)) do
      size = size + #argv[value]
      -- A value may not grow deeper than its path and its text are.
      is_refused = is_refused or descents > 0 and find(argv[value], '[%[{]')
    end
    is_refused = is_refused or is_spread and size > {{ spread_bytes }}
    total, each = total + size * {{ json_work }}, each * (1 + size / 16)
  end
  for key = step == 3 and i or 1, each > 0 and not is_refused and asked + total <= left and (step == 3 and i or #names) or 0 do
    local is_new = names[key] and not usages[names[key]]
    local held = names[key] and usage(names[key], 0) * {{ bytes_per_element }} or 0
    asked, bytes = asked + {{ question_work }}, bytes + held
    if is_plain and held * each <= {{ work_limit }} then asked, held = asked + (is_new and held * {{ measure_work }} or 0), 0 end
    -- What is deleted from an array moves all that follows.
    total = total + held * each * (is_spread and (command == 'JSON.DEL' or command == 'JSON.FORGET') and 1 + held / 16384 or 1)
    if asked + total > left then break end
  end
  at = at + step
  if at > stop or is_refused then break end
end
if is_refused then return 0, 0, 'COMMAND_REFUSED', command .. ' ' .. {{ paths }}, {{ paths }} end
do return max(total, bytes / 32 * strung * {{ string_units }}), asked end
