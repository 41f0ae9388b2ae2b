"""Follow streams as they grow: one XREAD waits for all of them, for a short time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from keyleash.audit.entries import AuditEvent, Denial, audit_events, denial_entry, repeats_of
from keyleash.audit.operator_actions import ControlEvent, control_event, control_filter
from keyleash.audit.read import EVERYTHING, EventMatcher, Query, with_follow_ups
from keyleash.audit.streams import (
    FIRST_PAGE,
    HasId,
    RawEntry,
    Words,
    next_count,
    pairs_of,
    place_of_last_ms,
    sort_key,
)
from keyleash.store.server_check import Client
from keyleash.store.store import Store

Found = TypeVar("Found", bound=HasId)
Feed = Callable[[Sequence[RawEntry]], Iterable[Found]]
"""Parses the new entries of a stream."""

BLOCK_MS = 500
"""Time of one wait: the delay until new identities are seen and signals are handled."""
_START = b"0-0"
_ENTRY_ID = re.compile(rb"[0-9]{1,19}-[0-9]{1,19}")


def follow_events(
    store: Store, identities: Callable[[], Iterable[str]], query: Query = EVERYTHING
) -> Iterator[AuditEvent | None]:
    """Yield the events of identities as they are recorded.

    Args:
        client: An operator's client, which occupies one connection while it waits.
        identities: Returns the identities; called repeatedly, so that new ones are seen.
        query: The selection; events since `since_ms` come first, without it only new ones.

    Returns:
        Events by time, without end; None after each wait without an event.
    """
    matcher = EventMatcher(query)

    def parse(identity: str, page: Sequence[RawEntry]) -> Iterator[AuditEvent]:
        for entry_id, words, follow_ups in with_follow_ups([list(page)]):
            if matcher.may_accept(words):
                events = audit_events(identity, entry_id, pairs_of(words), follow_ups)
                yield from filter(matcher.accepts, events)

    def feeds() -> dict[str, Feed[AuditEvent]]:
        return {store.keys.audit(identity): partial(parse, identity) for identity in identities()}

    return _follow(store.client, feeds, query.since_ms)


def follow_denials(
    store: Store, identities: Callable[[], Iterable[str]], query: Query = EVERYTHING
) -> Iterator[Denial | None]:
    """Yield the denials of identities as they are recorded, like `follow_events`.

    A repeated denial is yielded again with its count, once that is recorded.
    """
    matcher = EventMatcher(query)

    def parse(identity: str, page: Sequence[RawEntry]) -> Iterator[Denial]:
        for entry_id, words in page:
            found = (
                _repeated(store.client, store.keys.denied(identity), identity, words)
                if words[0] == b"of"
                else [denial_entry(identity, entry_id, words)]
            )
            yield from filter(matcher.accepts, found)

    def feeds() -> dict[str, Feed[Denial]]:
        return {store.keys.denied(identity): partial(parse, identity) for identity in identities()}

    return _follow(store.client, feeds, query.since_ms)


def follow_control(
    store: Store, identities: Iterable[str] | None = None, query: Query = EVERYTHING
) -> Iterator[ControlEvent | None]:
    """Yield operator actions like `follow_events`; arguments as for `read_control`."""
    accepts = control_filter(identities, query)

    def events(page: Sequence[RawEntry]) -> Iterator[ControlEvent]:
        return filter(accepts, map(control_event, page))

    return _follow(store.client, lambda: {store.keys.control: events}, query.since_ms)


def _repeated(client: Client, stream: str, identity: str, words: Words) -> Iterator[Denial]:
    """Yield the denials that an entry counts, with their counts, except trimmed ones."""
    counts = {of: n for of, n in repeats_of(words) if _ENTRY_ID.fullmatch(of)}
    with client.pipeline(transaction=False) as pipe:
        for of in counts:
            pipe.execute_command(b"XRANGE", stream, of, of)
        replies = pipe.execute() if counts else []
    for count, entries in zip(counts.values(), replies, strict=True):
        for entry_id, first in entries:
            if first[0] != b"of":
                yield replace(denial_entry(identity, entry_id, first), repeats=count)


def _follow(
    client: Client, feeds: Callable[[], Mapping[str, Feed[Found]]], since_ms: int | None
) -> Iterator[Found | None]:
    ends = _ends(client, list(feeds()), since_ms)
    room = FIRST_PAGE
    while True:
        current = feeds()
        # A stream that is new is read from its beginning.
        ends = {name: ends.get(name, _START) for name in current}
        entries: list[Found] = []
        # All streams together return at most one page.
        count = max(1, room // max(1, len(ends)))
        pages = list(_wait(client, ends, count))
        for name, page in pages:
            complete = _complete(client, name, page, count)
            ends[name] = complete[-1][0]
            entries += current[name](complete)
        if pages:
            room = next_count([entry for _, page in pages for entry in page])
        yield from sorted(entries, key=sort_key)
        if not entries:
            yield None


def _ends(client: Client, streams: Sequence[str], since_ms: int | None) -> dict[str, bytes]:
    """Return the id after which to read each stream: its newest, or the last before a time."""
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
    """Return the server's wait, which must end before the client's timeout."""
    timeout_s = client.connection_pool.connection_kwargs.get("socket_timeout")
    return BLOCK_MS if timeout_s is None else max(1, min(BLOCK_MS, int(timeout_s * 500)))


def _complete(client: Client, name: str, page: list[RawEntry], count: int) -> list[RawEntry]:
    """Return *page* without its last millisecond, since follow-ups of that may not be in it.

    If it has no other millisecond, the rest of that is read at once.
    """
    if len(page) < count:
        return page
    complete = page[: place_of_last_ms(page)]
    if complete:
        return complete
    last = page[-1][0]
    bounds = (b"(" + last, last.partition(b"-")[0])
    return [*page, *client.execute_command(b"XRANGE", name, *bounds)]
