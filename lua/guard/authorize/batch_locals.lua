-- batch_locals: declare what the phases find out about all commands of a batch.
-- in:  sequence, token_id, correlation
-- out: asks, count, counted_N, entry, event, fields, header, hidden, imaged, imaged_bound,
--      is_full, lengths, mends, n, names, passed, passed_deletes, passed_over, passed_reads,
--      passed_writes, replies, spent, stop, taken_N, unheard, weighed, works
--% for limit in limits
--% filter suffix(limit.number)
--% if limit.subject != "identity"
local counted_N = {}
--% elif limit.slot.kind == "ring"
local taken_N = 0
--% endif
--% endfilter
--% endfor
-- One event for all: its own fields, then for each command that is recorded its name and its
-- key; with several keys, their number behind the name, and netstrings.
local entry, event = { 'XADD', {{ names.audit }}, '*', 'seq', sequence + 1, 'token', token_id, 'policy', '', 'correlation', correlation }
local header, passed, passed_reads, passed_writes, passed_deletes = #entry, 0, 0, 0, 0
--% if masks
--% include "record/mask_key.lua"
local hidden = {}
--% endif
--% if images
local imaged, imaged_bound = {}, {}
--% endif
--% if hard_max is not none
local is_full
--% endif
local fields = header
-- By the commands' numbers: the replies, and what is not as usual about some of them: how the reply
-- is restored, their full name, that they are in no event.
local replies, mends, names, unheard = {}, {}, {}, {}
--% if plans or lengthening
-- Work so far, and that of asking for sizes; by the commands' numbers, their work, and the keys
-- of those whose work was estimated.
local spent, asks, works, weighed = 0, 0, {}, {}
--% if lengthening
-- The lengths of strings that commands so far have made.
local lengths = {}
--% endif
--% if plans
--% include "authorize/estimate_work.lua"
--% endif
--% endif
local count, passed_over, n, stop = 0, 0, 0, 3
