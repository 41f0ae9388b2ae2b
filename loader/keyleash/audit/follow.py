"""Trails as they grow: one XREAD waits for all of them, for short times."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from keyleash.audit.entries import AuditEvent, Denial, repeats_of
from keyleash.audit.operator_actions import ControlEvent, control_event, control_filter
from keyleash.audit.read import (
    EVERYTHING,
    FIRST_PAGE,
    EventMatcher,
    HasId,
    Query,
    RawEntry,
    Words,
    denial_of,
    events_of,
    next_count,
    pairs_of,
    place,
    place_of_last_ms,
    with_follow_ups,
)
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import operator_client

Found = TypeVar("Found", bound=HasId)
Feed = Callable[[Sequence[RawEntry]], Iterable[Found]]
"""Makes of a stream's new entries what is to be told of them."""

BLOCK_MS = 500
"""How long new identities may stay unseen; and a signal must not wait for an answer."""
_START = b"0-0"
_ENTRY_ID = re.compile(rb"[0-9]{1,19}-[0-9]{1,19}")


def follow_events(
    client: Client,
    keyspace: Keyspace,
    identities: Callable[[], Iterable[str]],
    query: Query = EVERYTHING,
) -> Iterator[AuditEvent | None]:
    """Wait for what identities do, and tell it as it comes.

    Args:
        client: A redis-py client of an operator. While it waits, it has
            a connection for itself.
        keyspace: Where the control keys are.
        identities: Says whose trails; asked now and again, so that new ones are seen.
        query: Which events; those from `since_ms` on come first, without it only new ones.

    Returns:
        Events without an end, by time; None whenever nothing came for a while.
    """
    client = operator_client(client)
    matcher = EventMatcher(query)

    def feed(identity: str) -> Feed[AuditEvent]:
        def events(page: Sequence[RawEntry]) -> Iterator[AuditEvent]:
            for entry_id, words, follow_ups in with_follow_ups([list(page)]):
                if matcher.may_accept(words):
                    yield from filter(
                        matcher.accepts, events_of(identity, entry_id, words, follow_ups)
                    )

        return events

    def feeds() -> dict[str, Feed[AuditEvent]]:
        return {keyspace.audit(identity): feed(identity) for identity in identities()}

    return _follow(client, feeds, query.since_ms)


def follow_denials(
    client: Client,
    keyspace: Keyspace,
    identities: Callable[[], Iterable[str]],
    query: Query = EVERYTHING,
) -> Iterator[Denial | None]:
    """Wait for what identities are refused, as `follow_events` does.

    What is refused again comes once more, with its number, when that is known.
    """
    client = operator_client(client)
    matcher = EventMatcher(query)

    def feed(identity: str) -> Feed[Denial]:
        stream = keyspace.denied(identity)

        def denials(page: Sequence[RawEntry]) -> Iterator[Denial]:
            for entry_id, words in page:
                found = (
                    _repeated(client, stream, identity, words)
                    if words[0] == b"of"
                    else [denial_of(identity, entry_id, words)]
                )
                yield from filter(matcher.accepts, found)

        return denials

    def feeds() -> dict[str, Feed[Denial]]:
        return {keyspace.denied(identity): feed(identity) for identity in identities()}

    return _follow(client, feeds, query.since_ms)


def follow_control(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str] | None = None,
    query: Query = EVERYTHING,
) -> Iterator[ControlEvent | None]:
    """Wait for what operators do, as `follow_events` does; arguments as for `read_control`."""
    client = operator_client(client)
    accepts = control_filter(identities, query)

    def events(page: Sequence[RawEntry]) -> Iterator[ControlEvent]:
        return filter(accepts, map(control_event, page))

    return _follow(client, lambda: {keyspace.control: events}, query.since_ms)


def _repeated(client: Client, stream: str, identity: str, words: Words) -> Iterator[Denial]:
    """The denials that an entry counts, with their numbers; those that are gone are left out."""
    counts = {of: n for of, n in repeats_of(pairs_of(words)) if _ENTRY_ID.fullmatch(of)}
    with client.pipeline(transaction=False) as pipe:
        for of in counts:
            pipe.execute_command(b"XRANGE", stream, of, of)
        replies = pipe.execute() if counts else []
    for count, entries in zip(counts.values(), replies, strict=True):
        for entry_id, first in entries:
            if first[0] != b"of":
                yield replace(denial_of(identity, entry_id, first), repeats=count)


def _follow(
    client: Client, feeds: Callable[[], Mapping[str, Feed[Found]]], since_ms: int | None
) -> Iterator[Found | None]:
    ends = _ends(client, list(feeds()), since_ms)
    room = FIRST_PAGE
    while True:
        current = feeds()
        # A stream that was not there at first is told from its beginning.
        ends = {name: ends.get(name, _START) for name in current}
        told: list[Found] = []
        # So many of each stream, that all together are no more than a page.
        count = max(1, room // max(1, len(ends)))
        pages = list(_wait(client, ends, count))
        for name, page in pages:
            whole = _whole(client, name, page, count)
            ends[name] = whole[-1][0]
            told += current[name](whole)
        if pages:
            room = next_count([entry for _, page in pages for entry in page])
        yield from sorted(told, key=place)
        if not told:
            yield None


def _ends(client: Client, streams: Sequence[str], since_ms: int | None) -> dict[str, bytes]:
    """Behind which entries to begin: the newest ones, or those of before a time."""
    last = b"+" if since_ms is None else b"%d" % max(since_ms - 1, 0)
    with client.pipeline(transaction=False) as pipe:
        for stream in streams:
            pipe.execute_command(b"XREVRANGE", stream, last, "-", "COUNT", 1)
        newest = pipe.execute() if streams else []
    return {
        stream: entries[0][0] if entries else _START
        for stream, entries in zip(streams, newest, strict=True)
    }


def _wait(
    client: Client, ends: Mapping[str, bytes], count: int
) -> Iterator[tuple[str, list[RawEntry]]]:
    if not ends:
        time.sleep(BLOCK_MS / 1000)
        return
    reply: Any = client.execute_command(
        b"XREAD", "COUNT", count, "BLOCK", _block_ms(client), "STREAMS", *ends, *ends.values()
    )
    # RESP3 has a map where RESP2 has pairs.
    for name, page in reply.items() if isinstance(reply, dict) else reply or ():
        yield name.decode(), page


def _block_ms(client: Client) -> int:
    """How long the server holds back a reply, which must not take as long as the client waits."""
    timeout_s = client.connection_pool.connection_kwargs.get("socket_timeout")
    return BLOCK_MS if timeout_s is None else max(1, min(BLOCK_MS, int(timeout_s * 500)))


def _whole(client: Client, name: str, page: list[RawEntry], count: int) -> list[RawEntry]:
    """A full page may end between an event and its sequels: its last millisecond waits.

    Where the page has no other, the rest of it is read at once.
    """
    if len(page) < count:
        return page
    whole = page[: place_of_last_ms(page)]
    if whole:
        return whole
    last = page[-1][0]
    bounds = (b"(" + last, last.partition(b"-")[0])
    return [*page, *client.execute_command(b"XRANGE", name, *bounds)]
