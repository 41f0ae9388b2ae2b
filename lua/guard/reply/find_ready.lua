-- find_ready: find whether a blocking command would return at once.
-- in:  argv, waits, last, first, group_at, name_at, claim_at, stop
-- out: ready, tried
--
-- A blocking command does not block in a script: it replies as if its time were up, and the client
-- asks again. Such a reply is neither counted nor recorded, so the guard asks first.
ready, tried = (function()
  local ready, tried
--% if between
  call('ECHO', '')
--% endif
  if waits == 'any_key' then
    ready = last >= first and call('EXISTS', unpack(walked, first, last)) > 0
  elseif waits == 'first_key' then
    ready = walked[first] and call('EXISTS', walked[first]) > 0
  elseif waits == 'block' and not group_at then
    -- The command only reads, so it is run here; its result is the reply, and is not read again.
    tried = redis.pcall(unpack(argv, name_at))
    ready = tried
  elseif waits == 'block' then
    ready = false
    local group, consumer = argv[group_at], argv[group_at + 1]
    for i = 1, #walked do
      local delivered_id, known
      local groups = redis.pcall('XINFO', 'GROUPS', walked[i])
      for j = 1, #groups do
        if groups[j][2] == group then delivered_id = groups[j][8] end
      end
      if delivered_id then
        local consumers = call('XINFO', 'CONSUMERS', walked[i], group)
        for j = 1, #consumers do known = known or consumers[j][2] == consumer end
      end
      -- CLAIM also takes delivered entries that have been idle for that time.
      local idle = known and claim_at and redis.pcall('XPENDING', walked[i], group, 'IDLE', argv[claim_at], '-', '+', '1')
      -- An old id never waits, and the first call of a consumer makes it. Behind the last id that
      -- there can be, a range is an error and not empty.
      if not known or argv[stop - #walked + i] ~= '>' or idle and (idle.err or idle[1]) or redis.pcall('XRANGE', walked[i], '(' .. delivered_id, '+', 'COUNT', '1')[1] then
        ready = true
        break
      end
    end
  end
  return ready, tried
end)()
