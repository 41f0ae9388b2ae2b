-- trim_audit: trim the audit stream. It costs a fifth of appending, so one millisecond in seven
-- does it.
-- in:  now_us
-- out: none
--% if audit.hard_max is none
-- Trimming costs a fifth of appending, so one millisecond in seven does it.
if now_us % 7 == 0 then
--% if audit.retain_us is not none
  -- Not below 0, which would be an error.
  call('XTRIM', {{ names.audit }}, 'MINID', '~', string.format('%.0f', math.max(0, now_us - {{ audit.retain_us }}) / 1000))
--% else
  call('XTRIM', {{ names.audit }}, 'MAXLEN', '~', {{ text(audit.retain) }})
--% endif
end
--% endif
