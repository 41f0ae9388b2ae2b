"""Look up one event by id, and find gaps in a stream."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from keyleash.audit.entries import AuditEntry, AuditEvent, Denial, denial_entry, time_of
from keyleash.audit.operator_actions import ControlEvent, control_event
from keyleash.audit.read import Query, RepeatCounts, events_of, with_follow_ups
from keyleash.errors import OperationError
from keyleash.results import Instant, Result
from keyleash.store.store import Store
from keyleash.store.streams import (
    AuditStream,
    RawEntry,
    StreamKind,
    control_stream,
    owner_name,
    read_entries,
    read_pages,
    streams_of,
)
from keyleash.text import clock_time, counted, json_object

_WANTED = re.compile(
    r"(?:(?:(?P<kind>audit|denied):)?(?P<owner>[^/\s:]+)/)?(?P<id>[0-9]{1,19}-[0-9]{1,19})"
)
SEE_IDS = "see `keyleash audit log` for the ids of events"


Entry = AuditEvent | Denial | ControlEvent


def find_event(store: Store, identities: Iterable[str], wanted: str) -> tuple[Entry, ...]:
    """Find an entry by its id, with its follow-ups.

    Args:
        identities: The identities whose streams are searched.
        wanted: `<id>`, `<identity>/<id>`, `audit:<identity>/<id>`, `denied:<identity>/<id>` or
            `control/<id>`; on a cluster, `<identity>@<shard>` may stand for the identity. The id of
            a follow-up selects the entry that it is about.

    Returns:
        One entry; for a batch, each of its commands.

    Raises:
        OperationError (unknown-event): there is no such entry, or *wanted* is not an id.
        OperationError (ambiguous-event): several streams have an entry of that id.
    """
    parts = _WANTED.fullmatch(wanted)
    if parts is None:
        raise OperationError("unknown-event", f"`{wanted}` is not an event id", help=SEE_IDS)
    streams = [
        stream
        for stream in [*streams_of(store, identities), control_stream(store)]
        if parts["owner"] in {None, stream.identity or stream.kind, _owner(stream)}
        and parts["kind"] in {None, stream.kind}
    ]
    found = _look(store, streams, parts["id"])
    if not found:
        raise OperationError(
            "unknown-event", f"no audit stream has an event `{wanted}`", help=SEE_IDS
        )
    if len(found) > 1:
        several = ", ".join(f"`{_name(stream, found)}/{parts['id']}`" for stream in found)
        raise OperationError(
            "ambiguous-event",
            f"{len(found)} audit streams have an event `{wanted}`",
            help=f"name one of {several}",
        )
    ((stream, entry),) = found.items()
    return _read(store, stream, entry)


def _owner(stream: AuditStream) -> str:
    return stream.owner if stream.identity else str(StreamKind.CONTROL)


def _name(stream: AuditStream, found: Iterable[AuditStream]) -> str:
    is_only = sum(_owner(other) == _owner(stream) for other in found) == 1
    return _owner(stream) if is_only else f"{stream.kind}:{_owner(stream)}"


def _look(
    store: Store, streams: Sequence[AuditStream], entry_id: str
) -> dict[AuditStream, RawEntry]:
    """Return by stream the entry of that id, or the one that it is about."""
    entries = read_entries(store, [(stream, entry_id) for stream in streams])
    found = {
        stream: _original(store, stream, entry)
        for stream, entry in zip(streams, entries, strict=True)
        if entry is not None
    }
    return {stream: entry for stream, entry in found.items() if entry is not None}


def _original(store: Store, stream: AuditStream, entry: RawEntry) -> RawEntry | None:
    """Return the entry, or the one that it is about; None if that was trimmed."""
    _, words = entry
    if words[0] != b"of":
        return entry
    (original,) = read_entries(store, [(stream, words[1])])
    return original if original is not None and original[1][0] != b"of" else None


def _read(store: Store, stream: AuditStream, entry: RawEntry) -> tuple[Entry, ...]:
    entry_id, words = entry
    match stream.kind:
        case StreamKind.AUDIT:
            pages = read_pages(store, stream, time_of(entry_id))
            # The entry may have been trimmed since it was found.
            entries = with_follow_ups(pages)
            follow_ups = next((later for found, _, later in entries if found == entry_id), ())
            return events_of(stream, entry_id, words, follow_ups)
        case StreamKind.DENIED:
            repeat_counts = RepeatCounts(store, stream)
            repeat_counts.look_ahead(time_of(entry_id))
            denial = denial_entry(stream.identity, entry_id, words, stream.shard)
            return (repeat_counts.counted(denial),)
        case StreamKind.CONTROL:
            return (control_event(entry),)


def nothing_found(
    what: str, query: Query, now_ms: int, *, named: str | None = None
) -> OperationError:
    """Return the error for a selection without entries, with its times and the server's.

    *what* follows `no`; *named* is what may be wrong in it, such as `the name of the key`.
    """
    bounds = "".join(
        f" {word} {clock_time(time_ms)}"
        for word, time_ms in (("since", query.since_ms), ("until", query.until_ms))
        if time_ms is not None
    )
    hint = f"times are by the server's clock, now {clock_time(now_ms)}"
    if named and not bounds:
        hint = f"check {named}"
    return OperationError(
        "nothing-found",
        f"no {what}{bounds}",
        help=f"{hint}; `keyleash audit stats` counts all entries",
    )


Found = TypeVar("Found", bound=AuditEntry)


@dataclass(frozen=True, slots=True)
class Gap(Result):
    """Missing entries between two recorded ones.

    Attributes:
        kind: `event` or `denial`.
        first: The first missing sequence number.
        last: The last missing sequence number.
        after: The id of the entry before the gap.
        before: The id of the entry after the gap.
        time_ms: Server time of the entry after the gap, Unix milliseconds.
        shard: As that of an entry: each has numbers of its own.
    """

    identity: str
    kind: str
    first: int
    last: int
    after: str
    before: str
    time_ms: int
    shard: str = ""

    time = Instant[datetime]("time_ms")

    @property
    def missing(self) -> int:
        """Return the number of missing entries."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        numbers = f"{self.first}" if self.missing == 1 else f"{self.first} to {self.last}"
        owner = owner_name(self.identity, self.shard)
        return (
            f"gap: {counted(self.missing, self.kind)} of {owner} missing before"
            f" {clock_time(self.time_ms)}: {numbers}"
        )

    def to_dict(self) -> dict[str, Any]:
        names = ("identity", "of=kind", "first", "last", "missing", "after", "before", "time_ms")
        return {"kind": "gap", **json_object(self, *names, "shard?")}


@dataclass(frozen=True, slots=True)
class Restart(Result):
    """A restart of sequence numbers, since a shard lost its state; no entry is missing.

    Attributes:
        kind: `event` or `denial`.
        after: The id of the last entry with the old numbers.
        before: The id of the entry with number 1.
        time_ms: Server time of that entry, Unix milliseconds.
    """

    identity: str
    shard: str
    kind: str
    after: str
    before: str
    time_ms: int

    time = Instant[datetime]("time_ms")

    def __str__(self) -> str:
        owner = owner_name(self.identity, self.shard)
        return (
            f"note: numbers of {self.kind}s of {owner} restart at 1 at {clock_time(self.time_ms)}:"
            " the shard lost its state"
        )

    def to_dict(self) -> dict[str, Any]:
        names = ("identity", "shard", "of=kind", "after", "before", "time_ms")
        return {"kind": "restart", **json_object(self, *names)}


def with_gaps(
    entries: Iterable[Found], *, newest_first: bool = False
) -> Iterator[Found | Gap | Restart]:
    """Yield *entries*, with the gaps of each stream between them, and the restarts of shards.

    Args:
        entries: All entries of a time range: with a filter, missing numbers are not gaps.
        newest_first: The order of *entries*.
    """
    latest: dict[tuple[str, str], Found] = {}
    for entry in entries:
        stream = (entry.kind, entry.owner)
        previous = latest.get(stream, entry)
        latest[stream] = entry
        gap = _between(entry, previous) if newest_first else _between(previous, entry)
        if gap is not None:
            yield gap
        yield entry


def _between(older: AuditEntry, newer: AuditEntry) -> Gap | Restart | None:
    if not older.seq or not newer.seq:
        return None
    if newer.shard and newer.seq == 1 and older.id != newer.id:
        names = (newer.identity, newer.shard, newer.kind)
        return Restart(*names, older.id, newer.id, newer.time_ms)
    # Numbers restart if the identity's state was lost.
    first = older.seq + 1 if newer.seq >= older.seq else 1
    if first >= newer.seq:
        return None
    return Gap(
        identity=newer.identity,
        kind=newer.kind,
        first=first,
        last=newer.seq - 1,
        after=older.id,
        before=newer.id,
        time_ms=newer.time_ms,
        shard=newer.shard,
    )
