-- take_run: let the keys of a run be checked like those of one command, if it is that simple.
-- in:  from, times, keys, count, repeats, walked, first, last, weighs, lengthens, is_answered,
--      now_us, sent
-- out: code, walked, first, last
--
-- Else `code` is set, and its commands are checked one by one. So each of them is denied for the
-- same reason as outside of a run.
local fits = repeats and first == last and from == count + 1 and not lengthens and not weighs and sent <= {{ default_element_bytes }}
--% for limit in limits
--% filter expand("COUNTS_CALL", [counts(limit)])
if COUNTS_CALL then
--% endfilter
--% filter suffix(limit.number)
--% if limit.slot.kind == "gcra"
  fits = fits and math.max(tat_N, now_us) + (times - 1) * {{ limit.slot.interval_us }} - {{ limit.tolerance_us }} <= now_us
--% elif limit.slot.kind == "credit"
  fits = fits and (credit_N >= times or not (is_answered and is_answered[{{ limit.number }}]))
--% else
  fits = fits and (now_us >= ends_N and 0 or used_N) + times <= {{ limit.slot.limit }}
--% endif
--% endfilter
end
--% endfor
if not fits then code = 'RUN' end
walked, first, last = keys, from, from + times - 1
