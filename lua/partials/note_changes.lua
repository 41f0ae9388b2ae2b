-- The keys that the command changes, each once; of more than {{ max_images }} no image is kept.
for at = first, last, step do
  local name = walked[at]
  if not name then break end
  if not changed[name] and (at == first and changes_first or at > first and changes_rest) then
    changed[#changed + 1], changed[name] = name, true
  end
end
