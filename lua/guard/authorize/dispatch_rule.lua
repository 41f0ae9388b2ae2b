-- dispatch_rule: run the code of the command's rule.
-- in:  rule, argv, name_at, stop, find
-- out: rule
--% filter offset(name_at)
--% for rule in rules if rule.variant
if rule == {{ rule.id }} then
--% if rule.variant_option is not none
  -- The server compares an option as a C string, which ends at a NUL byte.
  for at = name_at + 3, stop do
    if find(argv[at], {{ option_pattern(rule.variant_option) }}) then rule = {{ rule.variant }} break end
  end
--% else
  local at = name_at + 2
  while at <= stop do
    if find(argv[at], {{ option_pattern("GET") }}) and at + 2 <= stop then
      at = at + 3
    elseif find(argv[at], {{ option_pattern("OVERFLOW") }}) and at + 1 <= stop then
      at = at + 2
    else
      break
    end
  end
  if at > stop then rule = {{ rule.variant }} end
--% endif
end
--% endfor
if false then
--% for rule in rules if rule.id in often_ruled
elseif rule == {{ rule.id }} then
--% cached_include "authorize/rule_body.lua" with rule, one_check, checks_differ, waiting, asked_bytes, key_bytes, too_long, repeating, remembering, bound_tokens, index_excluded, checks_ahead, work_limit, search_ms, string_units, batch_work
--% endfor
else
  -- Functions keep what is seldom needed out of the main chunk: the collector marks a function
  -- and its constants in one step, and is driven by every call on the server.
  (function(rule, argv, stop, find)
    if false then
--% for rule in rules if rule.id not in often_ruled
    elseif rule == {{ rule.id }} then
--% cached_include "authorize/rule_body.lua" with rule, one_check, checks_differ, waiting, asked_bytes, key_bytes, too_long, repeating, remembering, bound_tokens, index_excluded, checks_ahead, work_limit, search_ms, string_units, batch_work
--% endfor
    end
  end)(rule, argv, stop, find)
end
--% endfilter
