"""Read audit streams: pages, filters, and several streams merged by time."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from typing import Protocol, TypeVar

from keyleash.audit.entries import (
    AuditEntry,
    AuditEvent,
    Denial,
    Pairs,
    audit_events,
    denial_entry,
    follow_up_entry,
    number_of,
    repeats_of,
)
from keyleash.policy.model import AnySuffix, Capture, Literal, Pattern
from keyleash.policy.patterns import may_start_with
from keyleash.store.identities import known_identities
from keyleash.store.keyspace import OPERATORS, Keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import operator_client

Words = list[bytes]
"""The fields of an entry: names and values in turn; names may repeat."""

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


def stream_owners(client: Client, keyspace: Keyspace) -> list[str]:
    """Return the names that may have an audit stream: all identities ever active, and operators."""
    return [*known_identities(client, keyspace), OPERATORS]


class HasId(Protocol):
    """An entry of a stream."""

    @property
    def id(self) -> str: ...


Found = TypeVar("Found", bound=HasId)


def merged(streams: Iterable[Iterable[Found]], *, newest_first: bool = False) -> Iterator[Found]:
    """Merge streams that are each in order."""
    return heapq.merge(*streams, key=sort_key, reverse=newest_first)


def newest(entries: Iterable[Found], limit: int) -> list[Found]:
    """Return the first *limit* of entries in reverse order."""
    return list(islice(entries, limit))[::-1]


def sort_key(entry: HasId) -> tuple[int, int, int]:
    """Return the sort key of an entry: time, number, and place in a batch."""
    milliseconds, _, number = entry.id.partition("-")
    return int(milliseconds), int(number), getattr(entry, "item", 0)


KeyTest = Callable[[bytes], object]
_CUT = 256
"""Bytes of a key that a denial records."""
MASK = re.compile(rb"#[0-9a-f]{40}\Z")
"""The suffix of a masked key."""


@dataclass(frozen=True, slots=True)
class Query:
    """A filter of entries; None does not filter.

    Attributes:
        token: The token's id.
        key: A key that the entry names, also if it is masked there.
        pattern: A pattern that a key of the entry matches, or may match if it is masked.
        correlation: The correlation id, as in `AuditEntry`.
        op: The command's name, in upper case; `XGROUP` stands for all its sub-commands.
        code: The reply code of denials; with a code, no event matches.
        since_ms: Server time, Unix milliseconds, this millisecond included.
        until_ms: Likewise.
    """

    token: str | None = None
    key: bytes | None = None
    pattern: Pattern | None = None
    correlation: str | None = None
    op: str | None = None
    code: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def is_time_only(self) -> bool:
        """Return whether it filters by time alone, so that a missing number is a gap."""
        return replace(self, since_ms=None, until_ms=None) == EVERYTHING


EVERYTHING = Query()


class EventMatcher:
    """A query as two tests: a cheap one of raw fields, and an exact one of the parsed entry.

    The cheap test rejects most entries before they are parsed, which reads ten times as many
    entries a second.
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self._key_tests = list(_key_tests(query))
        self._word_tests = [*_text_tests(query), *((b"key", test) for test in self._key_tests)]

    def may_accept(self, words: Words) -> bool:
        """Return False only if `accepts` would return False for the parsed entry."""
        for name, test in self._word_tests:
            value = _field(words, name)
            if value is not None and not test(value):
                return False
        return True

    def accepts(self, entry: AuditEntry) -> bool:
        """Return whether *entry* matches."""
        query = self._query
        return (
            (query.since_ms is None or entry.time_ms >= query.since_ms)
            and (query.until_ms is None or entry.time_ms <= query.until_ms)
            and (query.token is None or entry.token == query.token)
            and (query.op is None or _is_op(query.op, entry.op))
            and (query.correlation is None or entry.correlation == query.correlation)
            and (query.code is None or (isinstance(entry, Denial) and entry.code == query.code))
            and all(any(map(test, entry.keys)) for test in self._key_tests)
        )


def _text_tests(query: Query) -> Iterator[tuple[bytes, KeyTest]]:
    for name, wanted in (
        (b"token", query.token),
        (b"correlation", query.correlation),
        (b"code", query.code),
    ):
        # A backslash may stand for a byte that was not UTF-8.
        if wanted is not None and "\\" not in wanted:
            yield name, wanted.encode("utf-8", "surrogateescape").__eq__
    if query.op is not None:
        op = query.op.encode("utf-8", "surrogateescape")
        yield b"op", lambda value: value == op or value.startswith(op + b" ")


def _is_op(wanted: str, op: str) -> bool:
    return op == wanted or op.startswith(wanted + " ")


def _field(words: Words, name: bytes) -> bytes | None:
    """Return the value of a field; None if it is absent or ambiguous."""
    try:
        at = words.index(name)
    except ValueError:
        return None
    return None if at & 1 else words[at + 1]


def _key_tests(query: Query) -> Iterator[KeyTest]:
    if query.key is not None:
        yield _is_key(query.key)
    if query.pattern is not None:
        yield key_test(query.pattern)


def _is_key(key: bytes) -> KeyTest:
    mask = b"#" + hashlib.sha1(key, usedforsecurity=False).hexdigest().encode()

    def is_key(recorded: bytes) -> bool:
        if recorded.endswith(mask):
            return key.startswith(recorded[: -len(mask)])
        return recorded == key or (len(recorded) == _CUT and key.startswith(recorded))

    return is_key


@lru_cache(maxsize=16)
def key_test(pattern: Pattern) -> KeyTest:
    """Return a test of whether a recorded, perhaps masked key may match *pattern*."""
    match pattern.parts:
        case (Literal(text),):
            return _is_key(text)
    # Equivalent to patterns.match, in a tenth of its time.
    fullmatch = re.compile(b"".join(map(_as_regex, pattern.parts)), re.DOTALL).fullmatch

    def matches(recorded: bytes) -> bool:
        if fullmatch(recorded):
            return True
        mask = MASK.search(recorded)
        return mask is not None and may_start_with(pattern, recorded[: mask.start()])

    return matches


def _as_regex(part: Literal | Capture | AnySuffix) -> bytes:
    match part:
        case Literal(text):
            return re.escape(text)
        case Capture():
            return b"[^:]+"
        case AnySuffix():
            return b".*"


_ID = b"id:"
_PAGE = 1000
"""More fields than a guard writes; a larger hash is not written by a guard."""


class RepeatCounts:
    """The counts of repeated denials of one identity, by the id of the first."""

    def __init__(self, client: Client, keyspace: Keyspace, identity: str) -> None:
        self._client = client
        self._stream = keyspace.denied(identity)
        # Before the stream is read: the counts of a minute that ends meanwhile are in the stream.
        self._counts = _counts_of_this_minute(client, keyspace.repeats(identity))

    def note(self, words: Words) -> None:
        """Add an entry that counts earlier denials."""
        self._counts.update(repeats_of(pairs_of(words)))

    def look_ahead(self, since_ms: int | None) -> None:
        """Add all such entries since a time; the stream is short."""
        for page in read_pages(self._client, self._stream, since_ms):
            for _, words in page:
                if words[0] == b"of":
                    self.note(words)

    def counted(self, denial: Denial) -> Denial:
        """Return the denial with its count."""
        count = self._counts.get(denial.id.encode(), 1)
        return denial if count <= 1 else replace(denial, repeats=count)


def read_folded(client: Client, keyspace: Keyspace, identities: Sequence[str]) -> dict[str, int]:
    """
    Count the denials of each identity that have no entry of their own.

    They are counted with the first denial of their kind in their minute. The count restarts at 0
    if the identity's hash of counts is lost.
    """
    with client.pipeline(transaction=False) as pipe:
        for name in identities:
            pipe.hscan(keyspace.repeats(name), count=_PAGE)
        pages = pipe.execute() if identities else []
    found = {}
    for name, (_, fields) in zip(identities, pages, strict=True):
        this_minute = sum(max(0, count - 1) for count in _counts_by_id(fields).values())
        found[name] = number_of(fields.get(b"folded", b"")) + this_minute
    return found


def _counts_of_this_minute(client: Client, name: str) -> dict[bytes, int]:
    # A fenced agent may have added any number of fields.
    return _counts_by_id(dict(client.hscan_iter(name, count=_PAGE)))


def _counts_by_id(fields: Mapping[bytes, bytes]) -> dict[bytes, int]:
    return {
        entry_id: number_of(fields.get(alike.removeprefix(_ID), b"1"))
        for alike, entry_id in fields.items()
        if alike.startswith(_ID)
    }


WithFollowUps = tuple[bytes, Words, Sequence[Words]]
"""An entry's id and fields, and the fields of its follow-ups."""


def read_events(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str],
    query: Query = EVERYTHING,
    *,
    newest_first: bool = False,
) -> Iterator[AuditEvent]:
    """Read the events of identities, by time.

    Follow-ups are merged into their events. A batch yields an event for each of its commands that
    *query* matches.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        identities: The identities, also inactive ones, and `OPERATORS`.
        query: The filter.
        newest_first: Read backwards.
    """
    client = operator_client(client)
    matcher = EventMatcher(query)

    def entries(identity: str) -> Iterator[AuditEvent]:
        pages = read_pages(
            client,
            keyspace.audit(identity),
            query.since_ms,
            query.until_ms,
            newest_first=newest_first,
        )
        for entry_id, words, follow_ups in with_follow_ups(pages, newest_first=newest_first):
            if matcher.may_accept(words):
                events = events_of(identity, entry_id, words, follow_ups)
                yield from filter(matcher.accepts, reversed(events) if newest_first else events)

    return merged(map(entries, identities), newest_first=newest_first)


def read_denials(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str],
    query: Query = EVERYTHING,
    *,
    newest_first: bool = False,
) -> Iterator[Denial]:
    """Read the denials of identities, by time; arguments as for `read_events`.

    Counts of repeats include the current minute.
    """
    client = operator_client(client)
    matcher = EventMatcher(query)

    def entries(identity: str) -> Iterator[Denial]:
        repeat_counts = RepeatCounts(client, keyspace, identity)
        # A count of repeats is recorded with the next denial in a later minute, perhaps after
        # the time range.
        until_ms = None if newest_first else query.until_ms
        if not newest_first:
            repeat_counts.look_ahead(query.since_ms)
        stream = keyspace.denied(identity)
        for page in read_pages(client, stream, query.since_ms, until_ms, newest_first=newest_first):
            for entry_id, words in page:
                if words[0] == b"of":
                    repeat_counts.note(words)
                elif matcher.may_accept(words):
                    denial = denial_of(identity, entry_id, words)
                    if matcher.accepts(denial):
                        yield repeat_counts.counted(denial)

    return merged(map(entries, identities), newest_first=newest_first)


def events_of(
    identity: str, entry_id: bytes, words: Words, follow_ups: Iterable[Words] = ()
) -> tuple[AuditEvent, ...]:
    """Parse the events of one entry, with its follow-ups."""
    parsed = (follow_up_entry(pairs_of(follow_up)) for follow_up in follow_ups)
    return audit_events(identity, entry_id, pairs_of(words), [item for item in parsed if item])


def with_follow_ups(
    pages: Iterable[list[RawEntry]], *, newest_first: bool = False
) -> Iterator[WithFollowUps]:
    """Yield each entry with its follow-ups.

    The same script appends both, in one millisecond: oldest first, an entry is complete when an
    entry of a later millisecond follows.
    """
    waiting: dict[bytes, list[Words]] = defaultdict(list)
    incomplete: list[RawEntry] = []
    for page in chain(pages, [[]]):
        for _, words in page:
            if words[0] == b"of":
                waiting[words[1]].append(words)
        entries = page
        if not newest_first:
            entries = incomplete + page
            end = place_of_last_ms(entries) if page else len(entries)
            entries, incomplete = entries[:end], entries[end:]
        for entry_id, words in entries:
            if words[0] != b"of":
                yield entry_id, words, waiting.pop(entry_id, ())


def denial_of(identity: str, entry_id: bytes, words: Words) -> Denial:
    """Parse the denial of an entry."""
    return denial_entry(identity, entry_id, pairs_of(words))
