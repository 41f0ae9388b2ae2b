-- collect_counts: remember what a call counted in the records of tokens and segments.
-- in:  subjects_N, kept_N
-- out: counted_N
--% for limit in limits if limit.has_counters
--% filter suffix(limit.number)
if subjects_N then
  for i = 1, #subjects_N do counted_N[subjects_N[i]] = kept_N[i] end
end
--% endfilter
--% endfor
