-- batch_locals: declare what the phases find out about all commands of a batch.
-- in:  none
-- out: after, asks, count, counted_N, entry, event, expiring, fields, gone, grouped, header,
--      hidden, imaged, imaged_bound, is_full, lengths, n, names, olds, passed, passed_deletes,
--      passed_over, passed_reads, passed_writes, readers, replies, restores, runs, spelled, spent,
--      stop, taken_N, unheard, weighed, works
--% for limit in limits
--% filter suffix(limit.number)
--% if limit.has_counters
local counted_N = {}
--% elif limit.slot.kind == "ring"
local taken_N = 0
--% endif
--% endfilter
--% endfor
-- One event for all: after its own fields, for each command that is recorded its name and its
-- key; with several keys, their number after the name, and netstrings.
local entry, event
local header, passed, passed_reads, passed_writes, passed_deletes = {{ event_words }}, 0, 0, 0, 0
--% if masks
--% include "record/mask_key.lua"
local hidden = {}
--% endif
--% if images
local imaged, imaged_bound = {}, {}
--% endif
--% if audit.hard_max is not none
local is_full
--% endif
local fields = header
-- By the commands' numbers: the replies, and which commands are in no event. Then what is not as
-- usual about some of them, in tables that are made for the first: how the reply is restored, and
-- their full name.
local replies, unheard, restores, names = {}, {}
--% if gets
local olds
--% endif
-- Work so far, and that of asking for sizes; by the commands' numbers, their work, and the keys
-- of those whose work was estimated.
local spent, asks, works, weighed = 0, 0
--% if lengthening
-- The lengths of strings that commands so far have made.
local lengths
--% endif
--% if governing
-- By the keys that commands so far write: their elements at most, their type, and whether they have
-- none but those of now and of commands of the batch. By the commands' numbers: the keys that are
-- gone after them, and those with an expiry.
local after, gone, expiring
--% endif
--% if plans
--% include "authorize/estimate_work.lua"
--% endif
--% if reply_limits
-- By the commands' numbers: whether the bytes of their replies count.
local readers = {}
--% elif counts_bytes
local readers
--% endif
--% if has_indexes
-- By the commands' numbers the words of searches; the prefixes of indexes that commands so far make, by
-- name; and whether one has dropped an index.
local searches, made, dropped = nil, {}, false
--% endif
local count, passed_over, n, stop = 0, 0, 0, 3
--% if not sandbox
-- The number of words, if runs are written out; how many commands are in a run that begins at a
-- command, if it is carried out as a whole, and if its commands were written out.
local spelled, runs, grouped = 0
--% endif
