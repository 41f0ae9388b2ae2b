-- read_words: read the words of a delegation, and refuse those that are malformed.
-- in:  argv
-- out: digest, wanted_s, words, labels
--
-- A refusal returns its reason, and the word, of a label its name, but nothing that contains a token.
local function has_token(text)
  return find(string.lower(text), {{ token_pattern }})
end
local digest, wanted_s = argv[4] or '', argv[5] or ''
if #digest ~= 40 or find(digest, '[^0-9a-f]') then return 'digest' end
if #wanted_s > 10 or find(wanted_s, '%D') then return 'ttl', not has_token(wanted_s) and wanted_s or nil end
local words, labels = { bind = {}, allow = {}, keys = {}, budget = {}, meta = {} }
for at = 6, #argv, 2 do
  local list, word = words[argv[at]], argv[at + 1]
  if not list or not word then return 'word', not has_token(argv[at]) and argv[at] or nil end
  if has_token(word) then return argv[at] end
  if #list >= {{ delegation.max_items }} then return argv[at], argv[at] ~= 'meta' and word or nil end
  list[#list + 1] = word
end
for i = 1, #words.meta do
  labels = labels or {}
  local name, value = string.match(words.meta[i], '^([a-z][a-z0-9_.-]*)=([ -~]+)$')
  if not name or labels[name] or #name > {{ delegation.max_label_name }} or #value > {{ delegation.max_label_bytes }} then return 'meta', string.match(words.meta[i], '^[^=]*') end
  labels[name] = value
end
