-- prefix_keys: put the vault prefix in front of keys in the arguments.
-- in:  places, first, last, restore, step
-- out: argv
--
-- Only its place distinguishes a key from an equal argument.
--% if cluster
-- A glob finds both forms of names, see vault_names.
if restore == 'scan' then
  for i = 1, #places do argv[places[i]] = {{ vault }} .. '[:{]' .. argv[places[i]] end
else
--% endif
if places then
  for i = 1, #places do argv[places[i]] = {{ physical("argv[places[i]]") }} end
elseif first == last then
  if argv[first] then argv[first] = {{ physical("argv[first]") }} end
else
  for at = first, last, step do
    if not argv[at] then break end
    argv[at] = {{ physical("argv[at]") }}
  end
end
--% if cluster
end
--% endif
