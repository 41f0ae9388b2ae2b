-- estimate_images: count the before-images that a command of a batch needs as work.
-- in:  first, last, step, walked, imaged, changes_first, changes_rest, spent, command
-- out: amount, code, detail, value, work
for at = first, last, step do
  local name = walked[at]
  if not name then break end
  if not imaged[name] and (at == first and changes_first or at > first and changes_rest) then
    local bytes, part = redis.pcall('STRLEN', name), 6
    if type(bytes) ~= 'number' then bytes, part = redis.pcall('MEMORY', 'USAGE', name), 1 end
--% if Bound.PATHS in bounds
    if part == 1 and type(bytes) == 'number' and call('TYPE', name).ok == 'ReJSON-RL' then bytes = bytes / {{ document_shrinks }} end
--% endif
    -- A longer value has no before-image.
    if type(bytes) == 'number' and bytes <= {{ most_image_bytes }} then work = work + bytes * {{ image_work }} / part end
  end
end
if spent + work > {{ work_limit }} then
  code, detail, value = 'WORK_TOO_LARGE', 'command', command
  amount = string.format(' work=%.0f limit=%.0f', math.ceil(spent + work), {{ work_limit }})
end
