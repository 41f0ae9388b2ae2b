-- estimate_groups: a function for the work of a stream's groups and consumers, for `weigh`.
-- in:  left, words_of
-- out: group_of, asked
-- Ask for a stream's groups and their consumers; returns a group as XINFO does.
local function group_of(name, group)
  local stream, held = redis.pcall('XINFO', 'STREAM', name), nil
  for i = 1, #stream, 2 do
    if stream[i] == 'groups' then asked = asked + {{ question_work }} + stream[i + 1] * {{ group_work }} end
    -- It also returns the first and the last entry.
    if type(stream[i + 1]) == 'table' then asked = asked + words_of(stream[i + 1]) end
  end
  local groups = asked <= left and redis.pcall('XINFO', 'GROUPS', name) or {}
  for i = 1, #groups do
    if groups[i][2] == group then held, asked = groups[i], asked + groups[i][4] * {{ consumer_work }} end
  end
  return held
end
