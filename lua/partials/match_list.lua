if false then
--% for matcher in matchers
--% if matcher.text is not none
elseif key == {{ matcher.text }} then matched = true
--% elif matcher.pattern is not none
elseif find(key, {{ matcher.pattern }}) then matched = true
--% else
elseif true then matched = true
--% endif
--% endfor
end
