-- take_source: take the source of the call off its correlation argument: up to the first line break.
-- in:  correlation
-- out: correlation, source
local source = ''
do
  local at = find(correlation, '\n', 1, true)
  if at then
    source, correlation = string.sub(correlation, 1, math.min(at - 1, 256)), string.sub(correlation, at + 1, at + 256)
  end
end
