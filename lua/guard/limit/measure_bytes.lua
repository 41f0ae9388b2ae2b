-- measure_bytes: add the bytes of the arguments of a call, or of a run of calls, to `bytes`.
-- in:  argv, name_at, stop, keys, times, from, run_end
-- out: bytes
--% if running
for at = name_at + 1, run_end or stop do bytes = bytes + #argv[at] end
-- The first key is in argv.
for i = 1, (times or 1) - 1 do bytes = bytes + #keys[from + i] end
--% else
for at = name_at + 1, stop do bytes = bytes + #argv[at] end
--% endif
