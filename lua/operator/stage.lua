--- stage: migrate states to the layouts of another policy, under staged keys.
---
--- KEYS     none
---
--- ARGV[1]  state      string  prefix of states
--- ARGV[2]  staged     string  prefix of staged keys
--- ARGV[3]  keep_ms    number  time for which a staged state outlives a load that dies
--- ARGV[4]  latest_us  number  times from here on are corrupt
--- ARGV[5]  load  string  the id of the load
--- ARGV[6…] for each identity: its name, and the migration of its state; see operator/load/migration.py
---
--- Replies  for each identity: the numbers of the state that was moved, "" if there is none, and
---          the newest calls of its rings, by which activate.lua sees whether it has changed;
---          the new state, or "" if it is staged, as it is with rings
local state_prefix, staged_prefix, keep_ms, latest_us = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local call, pack, unpack_struct = redis.call, struct.pack, struct.unpack
--% include "limit/moved_ring.lua"
--% include "operator/include/step_number.lua"
--% include "operator/include/step_ring.lua"
--% include "operator/include/moved_state.lua"
--% include "operator/include/newest_calls.lua"
local argv, seen = ARGV, {}
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
for i = 6, #argv, 3 do
  local name, moves, rings = argv[i], argv[i + 1], argv[i + 2]
  local state = call('GET', state_prefix .. name)
  local header, marks, moved = '', '', ''
  if state then
    local _, _, from_size = unpack_struct('<c8HH', moves)
    moved = moved_state(moves, state, now_us)
    header, marks = string.sub(state, 1, from_size), newest_calls(state, rings)
    if #state > from_size or #moved > 512 then
      call('SET', staged_prefix .. argv[5] .. ':state:' .. name, moved, 'PX', keep_ms)
      moved = ''
    end
  end
  seen[#seen + 1], seen[#seen + 2], seen[#seen + 3] = header, marks, moved
end
return seen
