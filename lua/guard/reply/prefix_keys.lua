-- prefix_keys: put the vault prefix in front of keys in the arguments.
-- in:  places, first, last, step
-- out: argv
--
-- Only its place distinguishes a key from an equal argument.
if places then
  for i = 1, #places do argv[places[i]] = {{ vault }} .. argv[places[i]] end
elseif first == last then
  if argv[first] then argv[first] = {{ vault }} .. argv[first] end
else
  for at = first, last, step do
    if not argv[at] then break end
    argv[at] = {{ vault }} .. argv[at]
  end
end
