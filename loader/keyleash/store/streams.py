"""Audit streams: their keys, and their raw entries.

On a cluster, the streams of an identity are those of its shards, and of the home.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from keyleash.store.keyspace import Keyspace
from keyleash.store.server import round_trip
from keyleash.store.shards import at_shard, missing_shards, read_tags
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

# As bytes, redis-py does not know the commands, else it would make a dict of the fields, whose
# names repeat.
_XRANGE, _XREVRANGE, _XREAD = b"XRANGE", b"XREVRANGE", b"XREAD"


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
        shard: The tag of the shard that has it; on one server empty.
    """

    kind: StreamKind
    identity: str
    key: str
    shard: str = ""

    @property
    def name(self) -> str:
        """Return its folder in an archive: `audit/agent-runner`, `audit/a@2x`, `control`."""
        return f"{self.kind}/{self.owner}" if self.identity else str(self.kind)

    @property
    def owner(self) -> str:
        """Return its identity, on a cluster with the shard."""
        return owner_name(self.identity, self.shard)


def owner_name(identity: str, shard: str) -> str:
    """Return the name of an identity, or of an identity at a shard."""
    return f"{identity}@{shard}" if shard else identity


def audit_streams(store: Store, identities: Iterable[str]) -> list[AuditStream]:
    """Return the streams of events of identities, or of `OPERATORS`."""
    return streams_of(store, identities, StreamKind.AUDIT)


def denied_streams(store: Store, identities: Iterable[str]) -> list[AuditStream]:
    """Return the streams of denials of identities."""
    return streams_of(store, identities, StreamKind.DENIED)


def streams_of(store: Store, identities: Iterable[str], *kinds: StreamKind) -> list[AuditStream]:
    """Return the streams of identities of some kinds, by default of events and of denials."""
    streams = [
        AuditStream(kind, name, _key(store.keys.at_shard(tag), kind, name), tag)
        for name, tags in read_tags(store, identities).items()
        for tag in tags
        for kind in kinds or (StreamKind.AUDIT, StreamKind.DENIED)
    ]
    missing = missing_shards(store, {stream.shard for stream in streams})
    return [stream for stream in streams if stream.shard not in missing]


def _key(keys: Keyspace, kind: StreamKind, identity: str) -> str:
    return keys.audit(identity) if kind is StreamKind.AUDIT else keys.denied(identity)


def control_stream(store: Store) -> AuditStream:
    """Return the stream of operator actions."""
    return AuditStream(StreamKind.CONTROL, "", store.keys.control, store.keys.tag)


def record_action(store: Store, event: str, **details: str) -> None:
    """Append an operator action to the control stream."""
    store.client.xadd(store.keys.control, {"event": event, "actor": store.actor, **details})


def read_pages(
    store: Store,
    stream: AuditStream,
    since_ms: int | None = None,
    until_ms: int | None = None,
    *,
    after_id: str = "",
    newest_first: bool = False,
) -> Iterator[list[RawEntry]]:
    """Read a stream page by page, optionally a time range, bounds included, or *after_id*.

    The first page is small, since callers usually want few of the newest entries.
    """
    begin = b"-" if since_ms is None else b"%d-0" % since_ms
    if after_id:
        begin = b"(" + after_id.encode()
    end = b"+" if until_ms is None else b"%d" % until_ms
    count = FIRST_PAGE
    while True:
        command, *bounds = (_XREVRANGE, end, begin) if newest_first else (_XRANGE, begin, end)
        page = _execute(store, stream, command, stream.key, *bounds, "COUNT", count)
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


def read_rest(store: Store, stream: AuditStream, last: bytes) -> list[RawEntry]:
    """Return the entries after *last* in its millisecond."""
    bounds = (b"(" + last, last.partition(b"-")[0])
    entries: list[RawEntry] = _execute(store, stream, _XRANGE, stream.key, *bounds)
    return entries


def _execute(store: Store, stream: AuditStream, *command: Any) -> Any:
    return at_shard(store, stream.shard, lambda shard: shard.client.execute_command(*command))


def read_entries(
    store: Store, wanted: Sequence[tuple[AuditStream, str | bytes]]
) -> list[RawEntry | None]:
    """Return the entry of each stream and id; None if there is none."""
    return _first_entries(store, [(stream, (_XRANGE, stream.key, at, at)) for stream, at in wanted])


def oldest_entry(store: Store, stream: AuditStream) -> RawEntry | None:
    """Return the first entry of a stream; None if it is empty."""
    return _first_entries(store, [(stream, (_XRANGE, stream.key, "-", "+", "COUNT", 1))])[0]


def newest_entries(
    store: Store,
    streams: Sequence[AuditStream],
    since_ms: int | None = None,
    until_ms: int | None = None,
) -> list[RawEntry | None]:
    """Return the newest entry of each stream, optionally of a time range; None without any."""
    begin: bytes | int = b"-" if since_ms is None else since_ms
    end: bytes | int = b"+" if until_ms is None else until_ms
    return _first_entries(
        store, [(stream, (_XREVRANGE, stream.key, end, begin, "COUNT", 1)) for stream in streams]
    )


def _first_entries(
    store: Store, calls: Sequence[tuple[AuditStream, tuple[Any, ...]]]
) -> list[RawEntry | None]:
    pages = pipelined(store, calls)
    return [next(iter(page), None) for page in pages]


def pipelined(store: Store, calls: Sequence[tuple[AuditStream, tuple[Any, ...]]]) -> list[Any]:
    """Return the reply to a command about each stream, from one round trip to each shard."""

    def run(shard: Store) -> list[Any]:
        return round_trip(shard.client, (calls[place][1] for place in places))

    by_shard: dict[str, list[int]] = defaultdict(list)
    for place, (stream, _) in enumerate(calls):
        by_shard[stream.shard].append(place)
    by_place: dict[int, Any] = {}
    for tag, places in by_shard.items():
        by_place |= zip(places, at_shard(store, tag, run), strict=True)
    return [by_place[place] for place in range(len(calls))]


def wait_for_entries(
    store: Store, ends: Mapping[AuditStream, bytes], count: int, wait_ms: int
) -> Iterator[tuple[AuditStream, list[RawEntry]]]:
    """Wait for entries after some ids, and yield a page of each stream that has any.

    Args:
        store: The server, one of whose connections is occupied meanwhile.
        ends: The id after which to read, by stream.
        count: Entries of each stream at most.
        wait_ms: The longest wait; shorter if the client's timeout would end it.
    """
    by_key = {stream.key: stream for stream in ends}
    by_shard: dict[str, list[AuditStream]] = defaultdict(list)
    for stream in ends:
        by_shard[stream.shard].append(stream)
    # No command waits for the streams of several nodes.
    block = () if store.cluster else ("BLOCK", block_ms(store, wait_ms))
    is_found = False
    for streams in by_shard.values():
        words = (*(stream.key for stream in streams), *(ends[stream] for stream in streams))
        reply = _execute(store, streams[0], _XREAD, "COUNT", count, *block, "STREAMS", *words)
        # RESP3 has a map where RESP2 has pairs.
        for key, page in reply.items() if isinstance(reply, dict) else reply or ():
            is_found = True
            yield by_key[key.decode()], page
    if store.cluster and not is_found:
        time.sleep(wait_ms / 1000)


def block_ms(store: Store, wait_ms: int) -> int:
    """Return the server's wait, at most *wait_ms*, which ends before the client's timeout."""
    timeout_s = store.client.connection_pool.connection_kwargs.get("socket_timeout")
    return wait_ms if timeout_s is None else max(1, min(wait_ms, int(timeout_s * 500)))


@dataclass(frozen=True, slots=True)
class StreamExtent:
    """The entries of a stream: what is left, and how many there ever were.

    Attributes:
        length: The number of its entries.
        added: The number of entries that were ever added.
        first_id: The id of the first entry; of the last one ever added if it is empty.
    """

    length: int
    added: int
    first_id: bytes


def stream_extent(store: Store, stream: AuditStream) -> StreamExtent | None:
    """Return the extent of a stream; None if it does not exist."""

    def extent(shard: Store) -> StreamExtent | None:
        if not shard.client.exists(stream.key):
            return None
        info = shard.client.xinfo_stream(stream.key)
        first = "recorded-first-entry-id" if info["length"] else "last-generated-id"
        return StreamExtent(info["length"], info["entries-added"], info[first])

    return at_shard(store, stream.shard, extent)


def stream_length(store: Store, stream: AuditStream) -> int:
    """Return the number of entries of a stream."""
    return int(_execute(store, stream, "XLEN", stream.key))


def read_repeats(store: Store, streams: Sequence[AuditStream]) -> list[dict[bytes, bytes]]:
    """Return the counts of repeated denials of each stream."""
    keys = [store.keys.at_shard(stream.shard).repeats(stream.identity) for stream in streams]
    calls = [("HGETALL", key) for key in keys]
    return pipelined(store, list(zip(streams, calls, strict=True)))


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
