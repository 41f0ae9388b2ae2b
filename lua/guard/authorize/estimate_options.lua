-- estimate_options: the number of elements of a call that options bound (VSIM), for `weigh`.
-- in:  option, base, default, bounded, arg, max, huge
-- out: n, pushed
n = option('COUNT', base + 1)
pushed = bounded(n or default)
for name in string.gmatch('SAMPLES EF FILTER-EF', '%S+') do
  local most = option(name, base + 1)
  -- Without a bound all elements are visited.
  if most then n = max(n or 0, most == 0 and huge or most) end
end
if select(2, option('TRUTH', base + 1)) then n = huge end
local _, filter = option('FILTER', base + 1)
n = n or default
-- By default a filter is tried on a hundred times as many.
if filter and not option('FILTER-EF', base + 1) then n = n * 100 end
n = bounded(n) * (1 + #arg(filter or 0) / 64)
