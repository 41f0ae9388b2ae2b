"""Audit streams: their names, and their raw entries page by page."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Protocol, TypeVar

from keyleash.store.identities import known_identities, require_known
from keyleash.store.keyspace import OPERATORS, Keyspace
from keyleash.store.server_check import Client
from keyleash.store.store import Store

Words = list[bytes]
"""The fields of an entry: names and values in turn; names may repeat."""
Pairs = Sequence[tuple[bytes, bytes]]
RawEntry = tuple[bytes, Words]
"""An entry's id, and its fields."""

FIRST_PAGE = 50
MAX_PAGE = 250
"""Entries per XRANGE at most: the server serves no other client meanwhile.

The size of a page is estimated from the previous one, so this also bounds a page of entries with
before-images of 64 KiB that follows small ones.
"""
PAGE_BYTES = 1_000_000
"""Target size of a page; entries with before-images can be large."""
_SAMPLED = 10


class StreamKind(StrEnum):
    """The kind of entries in a stream; see docs/reference/audit-events.md."""

    AUDIT = "audit"
    DENIED = "denied"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class AuditStream:
    """A stream of events, of denials or of operator actions.

    Attributes:
        identity: The identity, `@operators`, or empty for the control stream.
        key: Its key in Redis.
    """

    kind: StreamKind
    identity: str
    key: str

    @property
    def name(self) -> str:
        """Return its folder in an archive: `audit/agent-runner`, `control`."""
        return f"{self.kind}/{self.identity}" if self.identity else str(self.kind)


def streams_of(keyspace: Keyspace, identity: str) -> tuple[AuditStream, AuditStream]:
    """Return the streams of events and of denials of an identity."""
    return (
        AuditStream(StreamKind.AUDIT, identity, keyspace.audit(identity)),
        AuditStream(StreamKind.DENIED, identity, keyspace.denied(identity)),
    )


def control_stream(keyspace: Keyspace) -> AuditStream:
    """Return the stream of operator actions."""
    return AuditStream(StreamKind.CONTROL, "", keyspace.control)


def stream_owners(store: Store) -> list[str]:
    """Return the names that may have an audit stream: all identities ever active, and operators."""
    return [*known_identities(store), OPERATORS]


def read_pages(
    client: Client,
    stream: str,
    since_ms: int | None = None,
    until_ms: int | None = None,
    *,
    newest_first: bool = False,
) -> Iterator[list[RawEntry]]:
    """Read a stream page by page, optionally a time range, bounds included.

    The first page is small, since callers usually want few of the newest entries.
    """
    begin = b"-" if since_ms is None else b"%d-0" % since_ms
    end = b"+" if until_ms is None else b"%d" % until_ms
    # As bytes, redis-py does not know the command, else it would make a dict of the fields, whose
    # names repeat.
    command = b"XREVRANGE" if newest_first else b"XRANGE"
    count = FIRST_PAGE
    while True:
        bounds = (end, begin) if newest_first else (begin, end)
        page = client.execute_command(command, stream, *bounds, "COUNT", count)
        if page:
            yield page
        if len(page) < count:
            return
        after = b"(" + page[-1][0]
        begin, end = (begin, after) if newest_first else (after, end)
        count = next_count(page)


def next_count(page: Sequence[RawEntry]) -> int:
    """Return the number of entries to read in the page after *page*."""
    sampled = page[::_SAMPLED]
    each = sum(len(word) for _, words in sampled for word in words) / len(sampled)
    return max(1, min(MAX_PAGE, int(PAGE_BYTES / (each + 1))))


def pairs_of(words: Words) -> Pairs:
    """Return names and values as pairs, in order."""
    return list(zip(words[::2], words[1::2], strict=True))


def place_of_last_ms(entries: Sequence[RawEntry]) -> int:
    """Return the index of the first entry of the last millisecond."""
    last = entries[-1][0].partition(b"-")[0] + b"-"
    place = len(entries) - 1
    while place and entries[place - 1][0].startswith(last):
        place -= 1
    return place


class HasId(Protocol):
    """A parsed entry of a stream."""

    @property
    def id(self) -> str: ...


Found = TypeVar("Found", bound=HasId)


def merged(streams: Iterable[Iterable[Found]], *, newest_first: bool = False) -> Iterator[Found]:
    """Merge streams that are each in order."""
    return heapq.merge(*streams, key=sort_key, reverse=newest_first)


def newest(entries: Iterable[Found], limit: int) -> list[Found]:
    """Return the first *limit* of entries in reverse order."""
    return list(islice(entries, limit))[::-1]


def id_order(entry_id: str) -> tuple[int, int]:
    """Return the sort key of an id: `9-0` comes before `10-0`."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


def sort_key(entry: HasId) -> tuple[int, int, int]:
    """Return the sort key of an entry: time, number, and place in a batch."""
    return (*id_order(entry.id), getattr(entry, "item", 0))


def stream_names(store: Store, given: Sequence[str] = (), *, operators: bool = True) -> list[str]:
    """
    Return the identities whose audit streams are selected.

    Args:
        store: The server.
        given: Names; empty for all.
        operators: Whether all includes the audit stream of undos.

    Raises:
        OperationError (no-policy): No policy was ever loaded.
        OperationError (unknown-identity): A name is unknown.
    """
    names = list(dict.fromkeys(given))
    for name in names:
        if name != OPERATORS:
            require_known(store, name)
    if names:
        return names
    known = require_known(store, None)
    return [*known, OPERATORS] if operators else known
