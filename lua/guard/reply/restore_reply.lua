-- restore_reply: shape an error, an array or an integer as the server would reply to a direct call.
-- in:  restore, names, i, argv, name_at, hidden, unheard, event
-- out: failed, listed, reply, seen
if type(reply) == 'table' then
  if reply.err or restore then
    reply = (function()
      if reply.err then
--% if batch
        local command = names and names[i] or argv[name_at]
--% endif
        -- The event remains; this one corrects it. These errors have another text in a script.
        if find(reply.err, '^ERR Wrong number of args') then
          reply = redis.error_reply("ERR wrong number of arguments for '" .. string.lower((string.gsub(command, ' ', '|'))) .. "' command")
        elseif find(reply.err, '^ERR Unknown [%a ]*command called from') then
          reply = redis.error_reply("ERR unknown command '" .. command .. "'")
        elseif find(reply.err, '^ERR ACL failure in script: ') then
          reply = redis.error_reply('NOPERM ' .. string.sub(reply.err, 28))
        end
        local text = string.sub(reply.err, 1, 200)
--% if masks
--% if batch
        local is_hidden = hidden[i]
--% endif
        -- Behind its code it may name the key.
        if is_hidden then text = string.match(text, '^%S*') end
--% endif
--% if batch
        if not unheard[i] then
          for j = seen + 1, i do
            if not unheard[j] then listed = listed + 1 end
          end
          seen = i
          -- One entry for all that failed: an entry for each could hold the server for 50 ms.
          failed = failed or { 'XADD', {{ names.audit }}, '*', 'of', event }
          local last = #failed
          failed[last + 1], failed[last + 2], failed[last + 3], failed[last + 4] = 'item', listed, 'error', text
        end
--% else
        if event then
          call('XADD', {{ names.audit }}, '*', 'of', event, 'error', text)
        end
--% endif
--% if has_indexes
      elseif restore == 'info' then
        -- No counts: other agents have documents in it.
        local shown = {}
        for i = 1, #reply, 2 do
          local name = type(reply[i]) == 'table' and reply[i].ok or reply[i]
          if find(' index_name index_options index_definition attributes ', ' ' .. name .. ' ', 1, true) then shown[#shown + 1], shown[#shown + 2] = name, reply[i + 1] end
        end
        reply = shown
      elseif restore == 'indexes' then
--% include "reply/filter_indexes.lua"
      elseif type(restore) == 'table' then
        -- The documents of a search in its own order, and the number of all.
        local rows, shown = {}, { restore[1] }
        for i = 2, #reply, 2 do rows[reply[i]] = reply[i + 1] end
        for i = 2, #restore do
          if rows[restore[i]] then shown[#shown + 1], shown[#shown + 2] = restore[i], rows[restore[i]] end
        end
        reply = shown
--% endif
--% if scan_check is not none
      else
--% include "reply/filter_scan.lua"
--% endif
      end
      return reply
    end)()
  end
--% if sandbox
elseif phase ~= 'run' then
  -- For a script it is a number.
--% endif
elseif type(reply) == 'number' and (reply >= 9007199254740992 or reply <= -9007199254740992) then
--% if batch
  local command = names and names[i] or argv[name_at]
--% endif
  -- A double cannot hold it; as a string it is exact, and the client makes it a number again.
  if command == 'HINCRBY' then
    reply = call('HGET', argv[name_at + 1], argv[name_at + 2])
  elseif find(command, '^INCR') or find(command, '^DECR') then
    reply = call('GET', argv[name_at + 1])
  end
end
