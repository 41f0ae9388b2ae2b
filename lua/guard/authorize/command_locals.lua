-- command_locals: declare what the phases find out about one command.
-- in:  argv, name_at
-- out: changes_first, changes_rest, check, claim_at, deletes, expiring, first, governs, group_at,
--      kept_N, last, lengthens, place_N, reads, recorded, repeats, rest, restore, rule,
--      step, subjects_N, waits, walked, weighs, work, writes
--
-- The name of the command stands at name_at and its last argument at stop; in a batch others
-- follow. Its keys are walked[first], walked[first + step] and so on, up to walked[last].
local rule, check, restore
-- The keys are walked[first], walked[first + step] and so on, up to walked[last].
--% filter offset(name_at)
local walked, first, last, step = argv, name_at + 1, name_at + 1, 1
--% endfilter
local reads, writes, deletes, recorded
--% if running
local repeats
--% endif
--% if checks_differ
local rest
--% endif
--% if images
local changes_first, changes_rest
--% endif
local weighs, lengthens
local work, sent = 0, 0
--% if governing
local governs
--% if not batch
-- For the keys with an expiry: name, expiry by default, longest expiry, in milliseconds; and
-- under `idle` the replies after which they get none.
local expiring
--% endif
--% endif
--% if has_indexes
-- The words of a search that run in place of its own, and how many documents FT.DROPINDEX deletes.
local instead, doomed
--% endif
--% if waiting
local waits, group_at, claim_at
--% endif
--% for limit in limits
--% filter suffix(limit.number)
--% if limit.has_counters
local subjects_N, kept_N
--% elif limit.slot.kind == "ring"
local place_N
--% endif
--% endfilter
--% endfor
