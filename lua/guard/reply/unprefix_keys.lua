-- unprefix_keys: undo prefix_keys: the code that follows names keys as the caller has them.
-- in:  places, first, last, step
-- out: argv
if places then
  for i = 1, #places do argv[places[i]] = {{ logical("argv[places[i]]") }} end
else
  for at = first, last, step do
    if not argv[at] then break end
    argv[at] = {{ logical("argv[at]") }}
  end
end
