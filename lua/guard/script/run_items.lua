-- run_items: run plain commands, and scripts in the sandbox; shape what these return or raise.
-- in:  now_us, approved, items, perform, asks, ran, raised, header
-- out: replies, n, only_reads, ran, spent, steps, lengths, charge, event, entry, fields, befores,
--      imaged, imaged_bound, imaged_to, failed, seen, listed, raised
--
-- A script has the lines of its own text, after the first. An error has the line of the innermost
-- function of the script; a tail call leaves none.
local replies = {}
n, raised = 0, {}
ran, spent = asks, asks
--% if lengthening
lengths = nil
--% endif
;(function()
--% include "script/sandbox.lua"
--% include "script/libraries.lua"
  local first, lines, line
  local function line_at(level)
    local _, place = pcall(error, '', level)
    return tonumber(string.match(place, ':(%d+): $'))
  end
  local function begin(count) first, lines = line_at(4), count end
  local function locate(found)
    for level = 4, 24 do
      local at = line_at(level)
      if at and at > first and at <= first + lines then
        line = at - first - 1
        break
      end
    end
    return found
  end
  local function outcome_of(words, digest, script, own_keys, own_argv)
    steps, ran = math.max(steps, ran), math.max(steps, ran)
    if words then return perform(words, 'run') end
    first, lines, line = 0, 0, nil
    local ok, found = xpcall(function()
      local found = approved(digest, library, own_keys, own_argv, strings, tables, maths, bits, json, msgpack, structs, assert, error_of, ipairs, next_of, pairs_of, pcall, rawequal, select_of, tonumber_of, tostring_of, type, unpack_of, tick, ticks, join, method, base, compared, numeral, key_of, begin)()
      measure(found, 0)
      return found
    end, locate)
    if not (steps <= {{ work_limit }}) then
      -- Whatever it returned or raised.
      return { err = deny('WORK_TOO_LARGE', 'command', 'EVALSHA', string.format(' work=%.0f limit=%.0f', math.ceil(math.min(steps, 1e15)), {{ work_limit }}), nil, nil, 'EVALSHA') }
    end
    -- The `pcall` of a server gives the text of an error of a command.
    local is_own = raised[type(found) == 'table' and found.err or found]
    if type(found) == 'table' and type(found.err) == 'string' then
      found = found.err
    elseif ok then
      return found
    elseif not is_own then
      found = 'ERR user_script:' .. (line and line .. ': ' or ' ') .. string.gsub(type(found) == 'string' and found or 'the script raised a value that is no text', '^[%w_@]+:%d+: ', '') .. ' script: ' .. digest
      if line then found = found .. ', on @user_script:' .. line .. '.' end
    end
    -- A client repeats a call on a reply that says that nothing ran; only a denial has the guard's mark.
    -- The server cuts it at a NUL and a line, and clients remove its code ERR.
    local plain, codes = string.gsub(string.match(string.sub(found, 1, 200), '^[%s%-]*([^%z\r\n]*)'), '^ERR%s+', '')
    while codes > 0 do plain, codes = string.gsub(plain, '^ERR%s+', '') end
    if not is_own and (find(plain, '^LEASH') or find({{ nothing_ran }}, ' ' .. string.match(plain, '^%S*') .. ' ', 1, true) or find(plain, '^Function not found')) then
      found = 'ERR user_script: ' .. found
    end
    if is_own and find(found, '^LEASH ') then found = found .. ' at=' .. script .. (line and ':' .. line or '') end
    return { err = found }
  end
  local at = 1
  while items[at] do
    charge = items[at][7]
    event, entry, fields, befores, failed, seen, listed, imaged_to = nil, { 'XADD', {{ names.audit }}, '*', 'of', '' }, header, {}, nil, n, 0, 0
--% if images
    imaged, imaged_bound = {}, {}
--% endif
    repeat
      only_reads = items[at][6]
      local reply = outcome_of(unpack(items[at], 1, 5))
      -- A null would end the array.
      replies[at], at = reply ~= nil and reply, at + 1
    until not items[at] or items[at][7] ~= charge
--% include "script/complete_event.lua"
  end
  if {{ collects_after("now_us", "steps") }} then collectgarbage('step', {{ collected_kib }}) end
end)()
