-- mask_keys: put digests in the place of the keys of a delegation that are masked.
-- in:  argv
-- out: argv
--
-- Of keys that begin so, what follows the beginning of a mask is masked: it may match.
do
--% include "record/mask_key.lua"
  for at = 7, #argv, 2 do
    if argv[at - 1] == 'keys' then
      local text, is_masked, shown = argv[at], false
      local is_open = string.sub(text, -1) == '*'
      if is_open then text = string.sub(text, 1, -2) end
      text = string.gsub(string.gsub(text, '[{][{]', '{'), '[}][}]', '}')
      if not is_open then
        shown, is_masked = masked(text)
--% for matcher in masks if matcher.text is none
      elseif #text > #{{ matcher.beginning }} and string.sub(text, 1, #{{ matcher.beginning }}) == {{ matcher.beginning }} then
        shown, is_masked = {{ matcher.beginning }} .. '#' .. redis.sha1hex(text) .. '*', true
--% endfor
      end
      if is_masked then argv[at] = shown end
    end
  end
end
