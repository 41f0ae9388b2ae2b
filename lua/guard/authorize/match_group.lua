-- match_group: match the key against a tree of matchers that differ in bytes at fixed places.
-- in:  key
-- out: byte, matched
--% if grouping.singly or not grouping.position
if false then
--% for matcher in grouping.singly
--% if binding
elseif {{ holds(matcher.captured, starts) }} then matched = true
--% elif matcher.text is not none
elseif key == {{ matcher.text }} then matched = {{ met(matcher, named) }}
--% elif matcher.pattern is not none
elseif find(key, {{ matcher.pattern }}) then matched = {{ met(matcher, named) }}
--% else
elseif true then matched = {{ met(matcher, named) }}
--% endif
--% endfor
--% if grouping.position
else
--% endif
--% endif
--% if grouping.position
--% if grouping.position != known
  -- A key that ends before has no such byte.
  byte = string.byte(key, {{ grouping.position }}) or 0
--% endif
--% with known = grouping.position, bound = grouping.bound, halves = grouping
  if byte < {{ bound }} then
--% with grouping = halves.lower
--% include "authorize/match_group.lua"
--% endwith
  else
--% with grouping = halves.upper
--% include "authorize/match_group.lua"
--% endwith
  end
--% endwith
--% endif
--% if grouping.singly or not grouping.position
end
--% endif
