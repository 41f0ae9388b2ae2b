"""Sources of recorded calls: audit streams, an exported archive, or a capture of MONITOR.

`open_log` returns a `CallLog`; iterate over it for each `RecordedCall`. `RecordedCall.uses()` has
the classes that a call needs on each key; those on channels, indexes and by SCAN follow from its
`spec`.
"""

from __future__ import annotations

import time
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, TypedDict

from keyleash.addons.export.archive import Cursor, read_archive, read_cursor
from keyleash.addons.export.rows import SequenceCheck, bounded_lines, file_of, read_row
from keyleash.addons.learn.calls import COUNTERS, CallLog, NotUnderstood, RecordedCall
from keyleash.addons.learn.monitor import MonitorLog
from keyleash.audit.entries import (
    AuditEntry,
    AuditEvent,
    Denial,
    audit_events,
    denial_entry,
    number_of,
    repeats_of,
    time_of,
)
from keyleash.audit.operator_actions import read_activations
from keyleash.audit.read import Query, read_denials, read_events, with_follow_ups
from keyleash.audit.selection import Since, Until, time_range
from keyleash.audit.streams import id_order, merged, stream_names
from keyleash.commands import OperationClass, known_table
from keyleash.errors import ArgumentError, KeyleashError, OperationError
from keyleash.limits import Counter
from keyleash.operations.types import Param
from keyleash.policy import Policy, parse_policy
from keyleash.policy.parse import active_policy
from keyleash.policy.problems import listing
from keyleash.results import Progress
from keyleash.store.keyspace import OPERATORS
from keyleash.store.records import read_active, read_history
from keyleash.store.store import Store
from keyleash.store.streams import (
    AuditStream,
    RawEntry,
    StreamKind,
    audit_streams,
    newest_entries,
    oldest_entry,
    pairs_of,
    stream_length,
)
from keyleash.text import clock_time, printable

Archived = Annotated[
    str | Path, Param("directory", help="Read this archive of `audit export` instead.")
]
Captured = Annotated[
    str | Path, Param("file", help="Read this capture of MONITOR instead: see `learn --capture`.")
]


class LogOptions(TypedDict, total=False):
    """The log to read: that of the server, an archive, or a capture of MONITOR."""

    since: Since | None
    until: Until | None
    archive: Archived | None
    monitor: Captured | None
    progress: Progress | None


def open_log(
    open_store: Callable[[], Store], identities: Sequence[str], options: Mapping[str, Any]
) -> CallLog:
    """Return the log that options name.

    Args:
        open_store: Connects to the server; not called for files.
        identities: Names; all if there are none.
        options: See `LogOptions`.

    Raises:
        ArgumentError: two sources, or a time range of a capture.
        OperationError (unknown-identity): the log has no such identity.
    """
    archive, monitor = options.get("archive"), options.get("monitor")
    if monitor is not None:
        for other in ("archive", "since", "until"):
            if options.get(other) is not None:
                raise ArgumentError(f"`monitor` and `{other}` exclude each other")
        return MonitorLog(Path(monitor), identities, options.get("progress"))
    if archive is not None:
        now_ms = round(time.time() * 1000)
        return _ArchiveLog(Path(archive), identities, time_range(options, now_ms), options)
    return _ServerLog(open_store(), identities, options)


class _AuditLog(CallLog):
    """Calls of audit streams, of a server or archived."""

    def __init__(self, name: str, query: Query, options: Mapping[str, Any]) -> None:
        super().__init__(name, options.get("progress"))
        self._query, self.wanted_ms = query, query.since_ms
        self._last: dict[tuple[str, str], int] = {}

    def _recorded(self, entries: Iterable[AuditEvent | Denial]) -> Iterator[RecordedCall]:
        """Yield the calls of entries, and note what is missing between."""
        checks: dict[tuple[str, str], SequenceCheck] = {}
        for (kind, owner, entry_id), group in groupby(
            entries, lambda item: (item.kind, item.owner, item.id)
        ):
            items: list[Any] = [*group]
            first = items[0]
            if (kind, owner) not in checks:
                checks[kind, owner] = SequenceCheck(self._last.get((kind, owner), first.seq - 1))
            gap = checks[kind, owner].follow(first.seq, entry_id)
            if not self._is_in_range(first.time_ms):
                self.covered(first.identity).is_cut = True
                continue
            if gap is not None and gap.is_loss:
                self.note_hole(first.identity, f"{kind}s of {owner}: {gap}", first.time_ms)
            if kind == Denial.kind:
                facts = {name: getattr(first, name) for name in ("script", "code", "reason")}
                yield _call(first, count=first.repeats, **facts)
            else:
                yield from _calls_of(items)

    def _is_trimmed(self, entry: RawEntry) -> bool:
        """Note that a stream begins after the range that is wanted."""
        return entry[1][:2] != [b"seq", b"1"] and time_of(entry[0]) > (self._query.since_ms or 0)

    def _is_in_range(self, time_ms: int) -> bool:
        return (self._query.since_ms or 0) <= time_ms <= (self._query.until_ms or time_ms)


class _ServerLog(_AuditLog):
    def __init__(self, store: Store, identities: Sequence[str], options: Mapping[str, Any]) -> None:
        super().__init__("the audit log", time_range(options, store.now_ms()), options)
        self._store, self._names = store, stream_names(store, identities, operators=False)
        active = read_active(store)
        if active is not None:
            self.active = active.document
            policy = active_policy(self.active)
            scripts = (script for identity in policy.identities for script in identity.scripts)
            self.scripts = {script.name: script.source for script in scripts if script.file}

    def _calls(self) -> Iterator[RecordedCall]:
        streams = audit_streams(self._store, self._names)
        self.total = sum(stream_length(self._store, stream) for stream in streams)
        self._cover(streams)
        events = read_events(self._store, self._names, self._query)
        denials = read_denials(self._store, self._names, self._query)
        both: Iterable[AuditEvent | Denial] = merged([events, denials])
        return self._recorded(both)

    def _cover(self, streams: Sequence[AuditStream]) -> None:
        """Set from when on the log speaks: by policies, and by what is left of the streams."""
        stored = {item.digest: _parsed(item.document) for item in read_history(self._store)}
        uses = read_activations(self._store)[::-1]
        self.policies = [(use.from_ms, stored.get(use.digest)) for use in uses]
        now_ms = self._query.until_ms or self._store.now_ms()
        for name in self._names:
            coverage, is_reading = self.covered(name), True
            coverage.until_ms = now_ms
            for use, (_, policy) in zip(uses, self.policies, strict=True):
                if name not in use.rules:
                    break
                coverage.since_ms = use.from_ms
                is_reading = is_reading and _records_reads(policy, name)
                if is_reading:
                    coverage.reads_since_ms = use.from_ms
        before_ms = (self._query.since_ms or 0) - 1
        earlier = newest_entries(self._store, streams, until_ms=before_ms) if before_ms > 0 else []
        for stream, entry in zip(streams, earlier, strict=False):
            if entry is not None and entry[1][0] == b"seq":
                self._last[AuditEvent.kind, stream.owner] = number_of(entry[1][1])
        for stream in streams:
            coverage, oldest = self.covered(stream.identity), oldest_entry(self._store, stream)
            if oldest is not None and self._is_trimmed(oldest):
                first_ms = time_of(oldest[0])
                coverage.holes.append(f"events before {clock_time(first_ms)} were trimmed")
                coverage.is_cut = True
                coverage.since_ms = max(coverage.since_ms or 0, first_ms)
        for coverage in self.coverage.values():
            start = max(coverage.since_ms or 0, self._query.since_ms or 0)
            coverage.is_cut |= start > (coverage.since_ms or 0)
            coverage.since_ms = start or None
            if coverage.reads_since_ms is not None:
                coverage.reads_since_ms = max(coverage.reads_since_ms, start)


def _parsed(document: str) -> Policy | None:
    try:
        return parse_policy(document, file="<policy>", commands=None)
    except KeyleashError:
        # A policy of another version of keyleash.
        return None


def _records_reads(policy: Policy | None, name: str) -> bool:
    """Return whether a policy is known to record the reads of an identity."""
    identity = policy.identity(name) if policy else None
    return identity is not None and identity.audit.reads


class _ArchiveLog(_AuditLog):
    def __init__(
        self, directory: Path, names: Sequence[str], query: Query, options: Mapping[str, Any]
    ) -> None:
        self._archive = archive = read_archive(directory)
        super().__init__(f"the archive `{directory}`", query, options)
        streams = {f"audit/{path.name}" for path in directory.glob("audit/*/")} | archive.streams
        owners = {name[6:] for name in streams if name.startswith("audit/")} - {OPERATORS}
        known = sorted({owner.partition("@")[0] for owner in owners})
        for name in names:
            if name not in known:
                raise OperationError(
                    "unknown-identity",
                    f"the archive has no identity `{printable(name)}`",
                    help=f"it has {listing(known)}",
                )
        wanted = names or known
        self._owners = sorted(name for name in owners if name.partition("@")[0] in wanted)

    def _calls(self) -> Iterator[RecordedCall]:
        feeds: list[Iterable[AuditEvent | Denial]] = []
        for identity, _, shard in (owner.partition("@") for owner in self._owners):
            feeds.append(self._events(AuditStream(StreamKind.AUDIT, identity, "", shard)))
            feeds.append(self._denials(AuditStream(StreamKind.DENIED, identity, "", shard)))
        known_ms, lost, changes = 0, NotUnderstood(), list[int]()
        for entry_id, words in self._entries(AuditStream(StreamKind.CONTROL, "", ""), lost):
            known_ms = time_of(entry_id)
            changes += [known_ms] if b"activate" in words else []
        if lost.count:
            known_ms = 0
        reads: dict[str, int] = {}
        for call in self._recorded(merged(feeds)):
            spec, coverage = call.spec, self.covered(call.identity)
            last_ms = reads.get(call.identity, call.time_ms)
            is_same = bisect(changes, last_ms) == bisect(changes, call.time_ms)
            if not is_same or call.time_ms > known_ms:
                gap_ms = max(self.gaps_ms.get(call.identity, 0), call.time_ms - last_ms)
                self.gaps_ms[call.identity] = gap_ms
            # Which policies there were is not archived: reads are recorded from the first one on.
            if spec is not None and not (call.code or spec.mutates):
                reads[call.identity] = call.time_ms
                coverage.reads_since_ms = coverage.reads_since_ms or call.time_ms
            yield call

    def _events(self, stream: AuditStream) -> Iterator[AuditEvent]:
        self.covered(stream.identity)
        is_first = True
        for entry_id, words, follow_ups in with_follow_ups(
            [entry] for entry in self._entries(stream, self.not_understood)
        ):
            if is_first and self._is_trimmed((entry_id, words)):
                begun_ms = time_of(entry_id)
                self.note_hole(stream.identity, f"it begins at {clock_time(begun_ms)}", begun_ms)
            is_first = False
            pairs = pairs_of(words)
            yield from audit_events(stream.identity, entry_id, pairs, follow_ups, stream.shard)

    def _denials(self, stream: AuditStream) -> Iterator[Denial]:
        # The count of repeats follows its denial by minutes.
        counts = dict(
            pair
            for _, words in self._entries(stream, NotUnderstood())
            if words[0] == b"of"
            for pair in repeats_of(words)
        )
        for entry_id, words in self._entries(stream, self.not_understood):
            if words[0] != b"of":
                denial = denial_entry(stream.identity, entry_id, words, stream.shard)
                yield replace(denial, repeats=counts.get(entry_id, denial.repeats))

    def _entries(self, stream: AuditStream, left_out: NotUnderstood) -> Iterator[RawEntry]:
        name, before, cursor = stream.name, left_out.count, Cursor(stream.name)
        try:
            cursor = read_cursor(self._archive, name)
        except OperationError as error:
            left_out.add(name, error.message)
        # The control stream is read whole, since its entries have no numbers that show a hole.
        since_ms = None if stream.kind is StreamKind.CONTROL else self._query.since_ms
        files = cursor.files(self._archive.directory)
        # The day before the range has the number that the first entry of the range follows.
        earlier = [path.name for path, _ in files if path.name < file_of(since_ms or 0)][:-1]
        count, last = 0, Cursor(name).id
        for path, end in files[len(earlier) :]:
            try:
                for number, line in enumerate(bounded_lines(path, end), 1):
                    try:
                        row = read_row(line)
                    except ValueError:
                        left_out.add(f"{name}/{path.name}, line {number}", "not an entry")
                    else:
                        count, last = count + 1, row.id
                        yield row.id.encode(), [word for pair in row.fields for word in pair]
            except OSError as error:
                left_out.add(f"{name}/{path.name}", f"cannot be read to its end: {error}")
        is_in_range = id_order(cursor.id)[0] >= (since_ms or 0)
        is_whole = last == cursor.id and (since_ms is not None or count >= cursor.count)
        if left_out.count == before and is_in_range and not is_whole:
            left_out.add(name, "lacks entries that it had by its cursor")


def _calls_of(events: Sequence[AuditEvent]) -> Iterator[RecordedCall]:
    """Yield the calls of the commands of one event."""
    is_variant = _is_variant(events)
    for place, item in enumerate(events):
        event = item if item.keys else replace(item, keys=_empty_key(item.op))
        cost = {} if place else event.cost
        yield _call(event, cost=cost, argv=_argv(event), is_variant=is_variant, script=event.script)


def _call(entry: AuditEntry, **facts: Any) -> RecordedCall:
    return RecordedCall(
        entry.identity,
        entry.time_ms,
        entry.op,
        entry.keys,
        entry.token,
        len(entry.chain),
        correlation=entry.correlation,
        event=entry.id,
        **facts,
    )


def _empty_key(command: str) -> tuple[bytes, ...]:
    """Return the key of a command that is recorded without one: the empty one, if it takes keys."""
    spec = known_table().get(command)
    return (b"",) if spec is not None and spec.keys else ()


def _is_variant(events: Sequence[AuditEvent]) -> bool | None:
    """Return whether the commands with variants are these, by what the event took of limits."""
    specs = [known_table().get(event.op) for event in events]
    variants = [spec.variant for spec in specs if spec is not None and spec.variant is not None]
    if not variants:
        return False
    cost = events[0].cost
    if events[0].script:
        # A script is charged for all that it may do.
        return None
    if len(specs) == 1:
        charged = {cls for cls, counter in COUNTERS.items() if cost.get(counter)}
        return charged == {*variants[0].needs}
    if any(event.op == "BITFIELD" for event in events):
        return None
    sure = sum(spec is not None and OperationClass.READ in spec.needs for spec in specs)
    others = cost.get(Counter.READS, 0) - sure
    return None if 0 < others < len(variants) else others > 0


def _argv(event: AuditEvent) -> tuple[bytes, ...] | None:
    """Return the words of a call whose arguments are recorded, if its one key comes first."""
    if event.args is None:
        return None
    spec = known_table().get(event.op)
    words = tuple(event.op.encode().split(b" "))
    is_alone = spec is not None and spec.walk == (len(words), len(words), 1)
    return (*words, *event.keys, *event.args) if is_alone else None
