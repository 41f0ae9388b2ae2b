-- check_index: deny a search index that is not granted, or whose documents may be keys that are not.
-- in:  name_at, stop, argv, command, bindings, mask, narrow, record, made, dropped, spent
-- out: amount, code, detail, documents, doomed, dropped, instead, key, made, matched, reason, restore, value,
--      work
--
-- Each prefix of the index must lie within a readable pattern that ends with `*`, if the policy forces no
-- filter, and no denied key may begin with it. Others may change an index between calls, so its
-- prefixes are read in each.
--% with class = rule.index.class_, bit = {"read": 1, "write": 2, "delete": 4}[rule.index.class_]
--% if bound_tokens
if bindings and mask % {{ 2 * bit }} < {{ bit }} then
  code, detail, value, amount = 'CLASS_NOT_GRANTED', 'class', {{ class }}, ' by=token'
end
--% endif
--% endwith
--% if rule.index.command == "FT._LIST"
restore = 'indexes'
--% else
if name_at < stop and not code then
  local matched, prefixes, options, kinds, filter, on_json, documents, cost = false, {}, {}, {}, nil, false, 0, 0
  key = argv[name_at + 1]
--% with indexes = rule.index.every_name
--% include "authorize/match_index.lua"
--% endwith
  if #key > {{ key_bytes }} then code, detail, value, amount = 'KEY_TOO_LONG', 'key', key, {{ too_long }} end
--% if rule.index.filtered
--% include "authorize/find_filter.lua"
--% if rule.index.command == "FT.INFO"
  restore = filter and 'info'
--% endif
--% endif
--% if rule.index.options
  if not code then
--% include "authorize/read_options.lua"
  end
--% endif
  if not code then
--% if rule.index.command == "FT.CREATE"
--% include "authorize/read_create.lua"
--% else
--% include "authorize/read_index.lua"
--% endif
--% if rule.index.command == "FT.CREATE" or rule.index.command == "FT.ALTER"
--% include "authorize/check_vectors.lua"
--% endif
--% if checks_ahead
--% if rule.index.command == "FT.CREATE"
    made[key] = made[key] or {}
    for i = 1, #prefixes do table.insert(made[key], prefixes[i]) end
--% else
    for i = 1, made[key] and #made[key] or 0 do table.insert(prefixes, made[key][i]) end
--% if rule.index.command == "FT.SEARCH" or rule.index.command == "FT.AGGREGATE"
    -- When it runs, what it was weighed by has changed.
    if fields > header then code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' BATCH' end
--% endif
    -- The name may be the alias of another index, too.
    if dropped then code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' FT.DROPINDEX' end
--% endif
--% if rule.index.command == "FT.DROPINDEX"
    dropped = true
--% endif
--% endif
  end
--% if index_excluded
--% include "authorize/may_match.lua"
--% endif
  local index = key
  for i = 1, code and 0 or #prefixes do
    key = prefixes[i]
--% for opens in rule.index.opens
    -- With DD the documents go too, and those need the second list.
    if not (code or filter) and name_at + {{ loop.index }} <= stop then
      matched = false
--% with matchers = opens
--% include "authorize/match_any.lua"
--% endwith
      if not matched then code, detail, value = 'KEY_NOT_GRANTED', 'key', key .. '*' end
--% if bound_tokens
      if bindings and bindings > 0 and not code then
        local match = string.match
        matched = false
--% with matchers = opens | selectattr("captured") | list, binding = true
--% include "authorize/match_any.lua"
--% endwith
        if not matched then code, detail, value, amount = 'KEY_NOT_GRANTED', 'key', key .. '*', ' by=token' end
      end
--% endif
    end
--% endfor
--% if bound_tokens
    if bindings and narrow > 0 and not code then
--% with starts = true
--% include "authorize/match_narrow.lua"
--% endwith
      if not matched then code, detail, value, amount = 'KEY_NOT_GRANTED', 'key', key .. '*', ' by=token' end
    end
--% endif
--% if index_excluded
    for _, denied in ipairs({
--% for pattern, source in index_excluded
      { {{ pattern }}, {{ source }} },
--% endfor
    }) do
      if not code and may_match(key, true, denied[1], {}) then code, detail, value, reason = 'KEY_DENIED', 'key', key .. '*', denied[2] end
    end
--% endif
    if code then key = value break end
    key = index
  end
  if not code then
--% if batch_work
    local left = {{ work_limit }} - spent
--% else
    local left = {{ work_limit }}
--% endif
--% if rule.index.command == "FT.SEARCH" or rule.index.command == "FT.AGGREGATE"
--% include "authorize/bound_search.lua"
--% elif rule.index.command == "FT.DROPINDEX"
    if name_at + 1 < stop then
      cost, doomed = documents * {{ document_work }}, documents
--% if batch_work
      code, detail, value = 'COMMAND_REFUSED', 'command', command .. ' DD'
--% endif
    end
--% endif
    work = {{ search_work }} + cost
    if not code and not (work <= left) then
      code, detail, value, amount = 'WORK_TOO_LARGE', 'command', command, string.format(' work=%.0f limit=%.0f', math.ceil(math.min({{ work_limit }} - left + work, 1e15)), {{ work_limit }})
    end
  end
  if code == 'COMMAND_REFUSED' then
    -- A caller makes up no reason, and so no kind of denials.
    local word = string.match(string.upper(string.sub(value, 1, 64)), '^%S+ (%S+)$')
    reason = word and find({{ refused_words }}, ' ' .. word .. ' ', 1, true) and word or 'OPTION'
  end
end
--% endif
