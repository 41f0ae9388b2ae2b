-- find_reply: reply to a call whose id and words are remembered; nothing runs.
-- in:  once, argv, keys, token_id
-- out: argv, code, detail, value, once_key, once_digest, is_taken, undecided
--
-- The token was checked. The words are compared before anything changes them, and with the keys,
-- which those of a run do not repeat. A damaged record is the id of another call, an error of
-- `unpack`, or a wrong reply; nothing runs.
local once_key, once_digest, is_taken
--% if cluster
local undecided
--% endif
if {{ has_id }} then
  if once == '' or #once > {{ max_id_bytes }} or find(once, '[^ -~]') then
    code, detail, value = 'COMMAND_REFUSED', 'once', once
  end
  if find(string.lower(string.sub(once, 1, {{ 2 * max_id_bytes }})), {{ token_pattern }}) then
    code, detail, value = 'COMMAND_REFUSED', 'once', 'token'
  end
  if code then break end
--% if cluster
  -- In the slot of the first key, with which it moves.
  local beside = keys[1] or ''
  local place = string.match(beside, '^[^{]*{([^}]+)}') or not find(beside, '}', 1, true) and beside or ''
  if place ~= '' and #place <= {{ lease.max_place_bytes }} then once_key = {{ names.once_prefix }} .. token_id .. ':' .. redis.sha1hex(once) end
--% else
  once_key = {{ names.once_prefix }} .. token_id .. ':' .. redis.sha1hex(once)
--% endif
  argv[1], argv[2] = '', ''
  once_digest = redis.sha1hex(cmsgpack.pack(keys, argv))
--% if cluster
--% if between
  call('ECHO', '')
--% endif
  local found = once_key and redis.pcall('GET', once_key)
  if type(found) == 'table' then found, undecided = nil, found end
--% else
  local found = call('GET', once_key)
--% endif
  if found and string.sub(found, 1, 40) == once_digest then
    redis.pcall('HINCRBY', {{ names.repeats }}, 'replays', 1)
    if #found == 40 or #found > {{ 40 + most_reply_bytes }} then return { err = 'LEASH REPLAYED' } end
    return (cmsgpack.unpack(string.sub(found, 41)))
  end
  is_taken = found
end
