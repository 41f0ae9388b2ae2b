-- write_restrictions: add the restrictions of the token to the voucher.
-- in:  bindings, record, holders, mask, narrow, cap_count, bindings_at, chain_at
-- out: voucher
--
-- They begin with a sign that no number has, so that their place is known without the policy. A
-- shard needs no caps of them but their counters, and a child that of its ancestors, too.
local restrictions = bindings and string.sub(record, {{ record_bytes + 1 }}) or ''
--% if delegate
if chain_at then
  local counters, caps = {}, ''
  for i = 1, #holders do
    for n = 1, holders[i][3] do counters[string.byte(holders[i][1], holders[i][2] + (n - 1) * {{ cap_bytes }})] = true end
  end
  for counter in pairs(counters) do caps = caps .. struct.pack({{ cap_format }}, counter, 0, 0, 0, 0) end
  restrictions = struct.pack({{ delegation.tail_header }}, mask, bindings, narrow, #caps / {{ cap_bytes }}, #caps + bindings_at - cap_count * {{ cap_bytes }})
    .. caps .. string.sub(record, {{ tail_at }} + cap_count * {{ cap_bytes }}, chain_at - 1)
end
--% endif
voucher = voucher .. ':-' .. string.gsub(restrictions, '.', function(byte) return string.format('%02x', string.byte(byte)) end)
