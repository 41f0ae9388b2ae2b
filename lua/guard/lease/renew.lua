-- renew: renew the token at the home, which counts and records it as a batch of one command.
-- in:  argv, keys, sequence, now_us, correlation, token_id, counted_N, is_full
-- out: code, detail, value, amount, at_us, reason, command, sequence, passed, passed_writes, counted_N
do
  command = argv[5] or command
--% include "authorize/keyless_locals.lua"
  local n, name_at, stop = 1, 5, argv[4] == '2' and argv[6] and 6
  local is_capped, renewed_us
  repeat
    -- A block, since caps know another `life_us`.
    do
--% include "authorize/check_renewal.lua"
    end
--% include "limit.lua"
    if code then break end
    passed = 1
    if recorded then passed_writes, sequence = 1, sequence + 1 end
--% include "limit/collect_counts.lua"
--% include "limit/commit_limits.lua"
    if recorded then
--% if audit.logs_arguments
      local is_masked = false
--% include "record/log_arguments.lua"
--% endif
      call('XADD', {{ names.audit }}, '*', 'seq', sequence, 'token', token_id, 'policy', {{ charges.write }}, 'correlation', {{ audit.correlation }}, command, ''
--% if audit.logs_arguments
        , args_field, args_value
--% endif
      )
--% include "record/trim_audit.lua"
    end
--% include "reply/renew_token.lua"
  until true
end
