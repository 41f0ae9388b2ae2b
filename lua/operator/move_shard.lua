#!lua flags=allow-oom
--- move_shard: give the keys of identities at one shard other prefixes.
---
--- KEYS     none, as for expire_leases
---
--- ARGV[1]   state       string  prefix of states before the change
--- ARGV[2]   moved       string  prefix of the marks of what was moved, before the change
--- ARGV[3]   audit       string  prefix of streams of events before the change
--- ARGV[4]   denied      string  prefix of streams of denials before the change
--- ARGV[5]   repeats     string  prefix of their counters before the change
--- ARGV[6]   refused     string  prefix of the lists of circuit breakers before the change
--- ARGV[7]   suspension  string  prefix of records of suspensions before the change
--- ARGV[8]   seq         string  prefix of the numbers of newest events of operators before the change
--- ARGV[9]   state       string  as ARGV[1], after the change
--- ARGV[10]  moved       string  as ARGV[2], after the change
--- ARGV[11]  audit       string  as ARGV[3], after the change
--- ARGV[12]  denied      string  as ARGV[4], after the change
--- ARGV[13]  repeats     string  as ARGV[5], after the change
--- ARGV[14]  refused     string  as ARGV[6], after the change
--- ARGV[15]  suspension  string  as ARGV[7], after the change
--- ARGV[16]  seq         string  as ARGV[8], after the change
--- ARGV[17]  keep_ms     number  how long marks and states stay at the old names
--- ARGV[18…] identities
---
--- Replies  OK
---
--- All identities are held at the home, and their leases have ended. The state is copied: old guards
--- find that they lack a lease, and the home replies that they are stale. The mark is there so that
--- what they write later, such as a denial, replaces nothing. Tokens are leased again.
local call, argv = redis.call, ARGV
local renamed = {
  { argv[3], argv[11] }, { argv[4], argv[12] }, { argv[5], argv[13] }, { argv[6], argv[14] },
  { argv[7], argv[15] }, { argv[8], argv[16] },
}
for i = 18, #argv do
  local name = argv[i]
  if call('GET', argv[2] .. name) ~= argv[10] then
    if call('EXISTS', argv[1] .. name) == 1 then
      call('COPY', argv[1] .. name, argv[9] .. name, 'REPLACE')
      call('PEXPIRE', argv[1] .. name, argv[17])
    end
    for _, prefixes in ipairs(renamed) do
      local from, to = prefixes[1] .. name, prefixes[2] .. name
      if call('EXISTS', from) == 1 then call('RENAME', from, to) end
    end
    call('SET', argv[2] .. name, argv[10], 'PX', argv[17])
  end
end
return redis.status_reply('OK')
