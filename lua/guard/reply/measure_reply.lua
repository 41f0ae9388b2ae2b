-- measure_reply: count a reply as work, because all replies are in memory until the last one.
-- in:  reply
-- out: ran, took
if type(reply) == 'string' then
  took = math.max(took, #reply * {{ string_work }})
elseif type(reply) == 'table' and not reply.ok and not reply.err then
  local strings, bytes = 0, 0
  local function work_of(part)
    if type(part) == 'string' then
      strings, bytes = strings + 1, bytes + math.max(0, #part - {{ plain_string_bytes }})
      return {{ 2 * word_work }} + #part * {{ string_work }}
    end
    local work = {{ 2 * word_work }}
    if type(part) == 'table' then
      for i = 1, #part do work = work + work_of(part[i]) end
    end
    return work
  end
  took = math.max(took, work_of(reply), {{ string_units }} * math.sqrt(strings * (strings + bytes / {{ compared_bytes }})))
end
ran = ran + took
