"""Follow streams as they grow: one XREAD waits for all of a server, for a short time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from keyleash.audit.entries import AuditEvent, Denial, denial_entry, repeats_of
from keyleash.audit.operator_actions import ControlEvent, control_event, control_filter
from keyleash.audit.read import EVERYTHING, EventMatcher, Query, events_of, with_follow_ups
from keyleash.audit.streams import HasId, sort_key
from keyleash.store.store import Store
from keyleash.store.streams import (
    FIRST_PAGE,
    AuditStream,
    RawEntry,
    Words,
    audit_streams,
    control_stream,
    denied_streams,
    newest_entries,
    next_count,
    place_of_last_ms,
    read_entries,
    read_rest,
    wait_for_entries,
)

Found = TypeVar("Found", bound=HasId)

BLOCK_MS = 500
"""Time of one wait: the delay until new identities are seen and signals are handled."""
_START = b"0-0"
_ENTRY_ID = re.compile(rb"[0-9]{1,19}-[0-9]{1,19}")


def follow_events(
    store: Store, identities: Callable[[], Iterable[str]], query: Query = EVERYTHING
) -> Iterator[AuditEvent | None]:
    """Yield events as they are recorded, without end; None after each wait without an event.

    *identities* is called repeatedly, so that new ones are seen. Events since `since_ms` of the
    query come first; without it, only new ones come.
    """
    matcher = EventMatcher(query)

    def parse(stream: AuditStream, page: Sequence[RawEntry]) -> Iterator[AuditEvent]:
        for entry_id, words, follow_ups in with_follow_ups([list(page)]):
            if matcher.may_accept(words):
                events = events_of(stream, entry_id, words, follow_ups)
                yield from filter(matcher.accepts, events)

    return _follow(store, lambda: audit_streams(store, identities()), parse, query.since_ms)


def follow_denials(
    store: Store, identities: Callable[[], Iterable[str]], query: Query = EVERYTHING
) -> Iterator[Denial | None]:
    """Yield the denials of identities as they are recorded, like `follow_events`.

    A repeated denial is yielded again with its count, once that is recorded.
    """
    matcher = EventMatcher(query)

    def parse(stream: AuditStream, page: Sequence[RawEntry]) -> Iterator[Denial]:
        for entry_id, words in page:
            found = (
                _repeated(store, stream, words)
                if words[0] == b"of"
                else [denial_entry(stream.identity, entry_id, words, stream.shard)]
            )
            yield from filter(matcher.accepts, found)

    return _follow(store, lambda: denied_streams(store, identities()), parse, query.since_ms)


def follow_control(
    store: Store, identities: Iterable[str] | None = None, query: Query = EVERYTHING
) -> Iterator[ControlEvent | None]:
    """Yield operator actions like `follow_events`; arguments as for `read_control`."""
    accepts = control_filter(identities, query)

    def parse(_stream: AuditStream, page: Sequence[RawEntry]) -> Iterator[ControlEvent]:
        return filter(accepts, map(control_event, page))

    return _follow(store, lambda: [control_stream(store)], parse, query.since_ms)


def _repeated(store: Store, stream: AuditStream, words: Words) -> Iterator[Denial]:
    """Yield the denials that an entry counts, with their counts, except trimmed ones."""
    counts = {of: n for of, n in repeats_of(words) if _ENTRY_ID.fullmatch(of)}
    entries = read_entries(store, [(stream, of) for of in counts])
    for count, entry in zip(counts.values(), entries, strict=True):
        if entry is not None and entry[1][0] != b"of":
            denial = denial_entry(stream.identity, *entry, stream.shard)
            yield replace(denial, repeats=count)


def _follow(
    store: Store,
    streams: Callable[[], Sequence[AuditStream]],
    parse: Callable[[AuditStream, Sequence[RawEntry]], Iterable[Found]],
    since_ms: int | None,
) -> Iterator[Found | None]:
    ends = _ends(store, streams(), since_ms)
    room = FIRST_PAGE
    while True:
        # A stream that is new is read from its beginning.
        ends = {stream: ends.get(stream, _START) for stream in streams()}
        entries: list[Found] = []
        # All streams together return at most one page.
        count = max(1, room // max(1, len(ends)))
        pages = list(_wait(store, ends, count))
        for stream, page in pages:
            complete = _complete(store, stream, page, count)
            ends[stream] = complete[-1][0]
            entries += parse(stream, complete)
        if pages:
            room = next_count([entry for _, page in pages for entry in page])
        yield from sorted(entries, key=sort_key)
        if not entries:
            yield None


def _ends(
    store: Store, streams: Sequence[AuditStream], since_ms: int | None
) -> dict[AuditStream, bytes]:
    """Return the id after which to read each stream: its newest, or the last before a time."""
    until_ms = None if since_ms is None else max(since_ms - 1, 0)
    newest = newest_entries(store, streams, until_ms=until_ms)
    return {
        stream: _START if entry is None else entry[0]
        for stream, entry in zip(streams, newest, strict=True)
    }


def _wait(
    store: Store, ends: Mapping[AuditStream, bytes], count: int
) -> Iterator[tuple[AuditStream, list[RawEntry]]]:
    if ends:
        yield from wait_for_entries(store, ends, count, BLOCK_MS)
    else:
        time.sleep(BLOCK_MS / 1000)


def _complete(
    store: Store, stream: AuditStream, page: list[RawEntry], count: int
) -> list[RawEntry]:
    """Return *page* without its last millisecond, since follow-ups of that may not be in it.

    If it has no other millisecond, the rest of that is read at once.
    """
    if len(page) < count:
        return page
    complete = page[: place_of_last_ms(page)]
    if complete:
        return complete
    return [*page, *read_rest(store, stream, page[-1][0])]
