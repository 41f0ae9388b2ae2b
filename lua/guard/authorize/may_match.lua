-- may_match: find out whether a key, or some key that begins so, matches a pattern.
-- in:  none
-- out: may_match
--
-- A pattern has names of captures between two bytes 0xFF, as `written` of compiler/delegation.py has
-- it; those in `bind` have a value. A segment has one capture or `*` at most: no search is needed.
local function may_match(text, is_open, pattern, bind)
  local sub, is_open_pattern, from, at = string.sub, string.sub(pattern, -1) == '*', 1, 1
  if is_open_pattern then pattern = sub(pattern, 1, -2) end
  while true do
    local stop = find(pattern, ':', from, true)
    local segment = sub(pattern, from, (stop or 0) - 1)
    if is_open_pattern and not stop then
      local rest = sub(text, at)
      return sub(rest, 1, #segment) == segment or is_open and sub(segment, 1, #rest) == rest
    end
    local colon = find(text, ':', at, true)
    local piece = sub(text, at, (colon or 0) - 1)
    local before, name, after = string.match(segment, '^([^\255]*)\255([^\255]*)\255(.*)$')
    if name and bind[name] then segment, name = before .. bind[name] .. after, nil end
    if is_open and not colon then
      -- The segment may go on.
      if name then segment, piece = before, sub(piece, 1, #before) end
      return sub(segment, 1, #piece) == piece
    end
    if name then
      if not (#piece > #before + #after and sub(piece, 1, #before) == before and sub(piece, #piece - #after + 1) == after) then return false end
    elseif piece ~= segment then
      return false
    end
    if not stop or not colon then return not stop and not colon end
    from, at = stop + 1, colon + 1
  end
end
