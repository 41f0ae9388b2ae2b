-- What prefix_keys did is undone: what follows is about names as the caller has them.
if places then
  for i = 1, #places do argv[places[i]] = string.sub(argv[places[i]], {{ vault_bytes + 1 }}) end
else
  for at = first, last, step do
    if not argv[at] then break end
    argv[at] = string.sub(argv[at], {{ vault_bytes + 1 }})
  end
end
