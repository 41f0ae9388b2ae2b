-- expand_runs: write the commands of all further runs out, to check each of them for itself.
-- in:  size_at, from, size, taken
-- out: amount, argv, code, detail, grouped, key, n, name_at, reason, spelled, stop, value
--
-- What is malformed or too much stays as it is, and is denied when it is read again.
code, detail, value, amount, reason, key = nil, nil, nil, nil, nil, nil
n, stop, spelled, grouped = n - 1, size_at - 1, spelled - size * taken, {}
argv[size_at], argv[name_at + 1] = size .. '*' .. taken, from
argv = (function(at, number, total)
  local words, last = {}, at - 1
  for i = 1, last do words[i] = argv[i] end
  while argv[at] do
    local size, times, from, size_word = tonumber(argv[at]) or 0, 1
    if size < 1 then
      size_word, times = string.match(argv[at], '^(%d+)%*(%d+)$')
      size, times, from = tonumber(size_word) or 0, tonumber(times) or 0, tonumber(argv[at + 2]) or 0
      if size < 2 or times < 2 or from < 1 or from % 1 ~= 0 or not keys[from + times - 1] then break end
    end
    number, total = number + times, total + size * times
    if number > {{ max_batch_commands }} or total > {{ max_arguments }} or not argv[from and at + 2 + times * (size - 2) or at + size] then break end
    if from then
      grouped[number - times + 1] = times
      for i = from, from + times - 1 do
        words[last + 1], words[last + 2], words[last + 3] = size_word, argv[at + 1], keys[i]
        for j = 1, size - 2 do words[last + 3 + j] = argv[at + 2 + (i - from) * (size - 2) + j] end
        last = last + size + 1
      end
      at = at + 3 + times * (size - 2)
    else
      for i = at, at + size do words[last + 1 + i - at] = argv[i] end
      at, last = at + size + 1, last + size + 1
    end
  end
  -- A call may have a million words; those after what is malformed are not read.
  for i = at, math.min(#argv, at + {{ max_arguments }}) do words[last + 1 + i - at] = argv[i] end
  return words
end)(size_at, n, spelled)
