-- vault_names: declare the functions that turn keys into their names in the vault and back, where
-- names must keep their slot.
-- in:  keys
-- out: physical, logical, without_vault, await
--
-- Behind the prefix is a `:` and the key, if that has a hash tag, or else the whole key in braces.
-- The slot of a key that fits neither would be another one.
local function physical(name, mark)
  if find(name, '^[^{]*{[^}]+}') then return {{ vault }} .. (mark or '') .. ':' .. name end
  return name ~= '' and not find(name, '}', 1, true) and {{ vault }} .. (mark or '') .. '{' .. name .. '}' or nil
end
local function logical(name)
  return string.sub(name, {{ vault_bytes + 2 }}, string.sub(name, {{ vault_bytes + 1 }}, {{ vault_bytes + 1 }}) == '{' and -2 or -1)
end
local function without_vault(text)
  text = string.gsub(string.gsub(text, {{ vault }} .. '{([^}]*)}', '%1'), {{ vault }} .. ':', '')
  return (string.gsub(text, {{ vault }}, ''))
end
-- While a slot is moved key by key, the server looks for the declared name, which never exists, and
-- sends every call to the target. There a key that is still at the source must not be taken for a
-- missing one: of two names that never exist, an EXISTS is an error then, and nothing has run.
local function await(name)
  local first, second = physical(name, '!'), physical(name, '!!')
  return first and redis.pcall('EXISTS', first, second)
end
if keys[1] then
  local failed = await(keys[1])
  if type(failed) == 'table' then return failed end
end
