"""Look up one event by id, and find gaps in a stream."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from keyleash.audit.entries import AuditEntry, AuditEvent, Denial
from keyleash.audit.operator_actions import ControlEvent, control_event
from keyleash.audit.read import (
    RawEntry,
    RepeatCounts,
    Words,
    denial_of,
    events_of,
    read_pages,
    with_follow_ups,
)
from keyleash.errors import OperationError
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import operator_client

CONTROL = "control"
DENIED = "denied"
_WANTED = re.compile(
    rf"(?:(?:(?P<kind>audit|{DENIED}):)?(?P<whose>[^/\s:]+)/)?(?P<id>[0-9]{{1,19}}-[0-9]{{1,19}})"
)
_HELP = "see `keyleash audit log` for the ids of events"


@dataclass(frozen=True, slots=True)
class FoundStream:
    """A stream that may have the entry.

    Attributes:
        kind: `audit`, `denied` or `control`.
        whose: The identity; `control` of the operators' stream.
    """

    kind: str
    whose: str

    def key(self, keyspace: Keyspace) -> str:
        """Its name in Redis."""
        match self.kind:
            case "audit":
                return keyspace.audit(self.whose)
            case "denied":
                return keyspace.denied(self.whose)
            case _:
                return keyspace.control


def find_event(
    client: Client, keyspace: Keyspace, identities: Iterable[str], wanted: str
) -> tuple[AuditEvent | Denial | ControlEvent, ...]:
    """
    Find an entry by its id, with all that was said of it later.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        identities: Whose trails to look in.
        wanted: `<id>`, `<identity>/<id>`, `audit:<identity>/<id>`, `denied:<identity>/<id>` or
            `control/<id>`. The id of an entry that is about another one means that one.

    Returns:
        One entry; of a batch each of its commands.

    Raises:
        OperationError (unknown-event): there is none, or *wanted* is no id.
        OperationError (ambiguous-event): several trails have an entry of that id.
    """
    client = operator_client(client)
    parts = _WANTED.fullmatch(wanted)
    if parts is None:
        raise OperationError("unknown-event", f"`{wanted}` is no id of an event", help=_HELP)
    streams = [
        stream
        for stream in _streams(identities)
        if parts["whose"] in {None, stream.whose} and parts["kind"] in {None, stream.kind}
    ]
    found = _look(client, keyspace, streams, parts["id"])
    if not found:
        raise OperationError("unknown-event", f"no trail has an event `{wanted}`", help=_HELP)
    if len(found) > 1:
        several = ", ".join(f"`{_name(stream, found)}/{parts['id']}`" for stream in found)
        raise OperationError(
            "ambiguous-event",
            f"{len(found)} trails have an event `{wanted}`",
            help=f"name one of {several}",
        )
    ((stream, entry),) = found.items()
    return _read(client, keyspace, stream, entry)


def _streams(identities: Iterable[str]) -> Iterator[FoundStream]:
    for identity in identities:
        yield FoundStream("audit", identity)
        yield FoundStream(DENIED, identity)
    yield FoundStream(CONTROL, CONTROL)


def _name(stream: FoundStream, found: Iterable[FoundStream]) -> str:
    is_alone = sum(other.whose == stream.whose for other in found) == 1
    return stream.whose if is_alone else f"{stream.kind}:{stream.whose}"


def _look(
    client: Client, keyspace: Keyspace, streams: Iterable[FoundStream], entry_id: str
) -> dict[FoundStream, RawEntry]:
    """The entry of that id in each trail that has one, or what it is about."""
    streams = list(streams)
    with client.pipeline(transaction=False) as pipe:
        for stream in streams:
            pipe.execute_command(b"XRANGE", stream.key(keyspace), entry_id, entry_id)
        replies = pipe.execute() if streams else []
    found = {
        stream: _meant(client, stream.key(keyspace), entries[0])
        for stream, entries in zip(streams, replies, strict=True)
        if entries
    }
    return {stream: entry for stream, entry in found.items() if entry is not None}


def _meant(client: Client, stream: str, entry: RawEntry) -> RawEntry | None:
    """The entry, or the one that it is about; None if that is gone."""
    _, words = entry
    if words[0] != b"of":
        return entry
    abouts: list[RawEntry] = client.execute_command(b"XRANGE", stream, words[1], words[1])
    return next((about for about in abouts if about[1][0] != b"of"), None)


def _read(
    client: Client, keyspace: Keyspace, stream: FoundStream, entry: RawEntry
) -> tuple[AuditEvent | Denial | ControlEvent, ...]:
    entry_id, words = entry
    match stream.kind:
        case "audit":
            follow_ups = _follow_ups(client, stream.key(keyspace), entry_id)
            return events_of(stream.whose, entry_id, words, follow_ups)
        case "denied":
            repeat_counts = RepeatCounts(client, keyspace, stream.whose)
            repeat_counts.look_ahead(_time_ms(entry_id))
            return (repeat_counts.counted(denial_of(stream.whose, entry_id, words)),)
        case _:
            return (control_event(entry),)


def _follow_ups(client: Client, stream: str, entry_id: bytes) -> Sequence[Words]:
    pages = read_pages(client, stream, _time_ms(entry_id))
    # Trimmed in this moment: then nothing more is known of it.
    return next((said for found, _, said in with_follow_ups(pages) if found == entry_id), ())


def _time_ms(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


Found = TypeVar("Found", bound=AuditEntry)


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries between two that are there.

    Attributes:
        kind: Of what trail of the identity: `event` or `denial`.
        first: The first number that is missing.
        last: The last.
        after: The id of the entry before them.
        before: The id of the entry behind them.
        time_ms: Server time of the latter, Unix milliseconds.
    """

    identity: str
    kind: str
    first: int
    last: int
    after: str
    before: str
    time_ms: int

    @property
    def missing(self) -> int:
        """How many."""
        return self.last - self.first + 1


def with_gaps(entries: Iterable[Found], *, newest_first: bool = False) -> Iterator[Found | Gap]:
    """Tell the gaps of each trail where they are.

    Args:
        entries: All of some time, of any trails: where some are filtered out, numbers are
            missing that are no gap.
        newest_first: The order of *entries*.
    """
    met: dict[tuple[str, str], Found] = {}
    for entry in entries:
        before = met.get((entry.kind, entry.identity))
        met[entry.kind, entry.identity] = entry
        if before is not None:
            gap = _between(entry, before) if newest_first else _between(before, entry)
            if gap is not None:
                yield gap
        yield entry


def _between(older: AuditEntry, newer: AuditEntry) -> Gap | None:
    if not older.seq or not newer.seq:
        return None
    # Where the identity's state was lost, numbers begin anew.
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
    )
