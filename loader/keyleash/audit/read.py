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
"""An entry's fields as they lie in the stream: names and values in turn; names may repeat."""

RawEntry = tuple[bytes, Words]
"""An entry's id, and its words."""

FIRST_PAGE = 50
MAX_PAGE = 250
"""Entries per XRANGE: the server answers nobody else meanwhile.

What the next page takes is guessed by the last one; where small entries are followed by ones with
images of 64 KiB, so many of these are read at once.
"""
PAGE_BYTES = 1_000_000
"""What a page should not be much larger than: entries with before-images can be."""
_SAMPLED = 10


def read_pages(
    client: Client,
    stream: str,
    since_ms: int | None = None,
    until_ms: int | None = None,
    *,
    newest_first: bool = False,
) -> Iterator[list[RawEntry]]:
    """Read a stream, or what it has of a time, bounds included.

    Pages begin small, since those who ask for the newest entries seldom want many.
    """
    begin = b"-" if since_ms is None else b"%d-0" % since_ms
    end = b"+" if until_ms is None else b"%d" % until_ms
    # By a name that redis-py does not know: it would make a dict of the fields, whose names repeat.
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
    """How many entries the page behind *page* may have."""
    sampled = page[::_SAMPLED]
    each = sum(len(word) for _, words in sampled for word in words) / len(sampled)
    return max(1, min(MAX_PAGE, int(PAGE_BYTES / (each + 1))))


def pairs_of(words: Words) -> Pairs:
    """Names and values, in order."""
    return list(zip(words[::2], words[1::2], strict=True))


def place_of_last_ms(entries: Sequence[RawEntry]) -> int:
    """Where the entries of the last millisecond begin."""
    last = entries[-1][0].partition(b"-")[0] + b"-"
    place = len(entries) - 1
    while place and entries[place - 1][0].startswith(last):
        place -= 1
    return place


def stream_owners(client: Client, keyspace: Keyspace) -> list[str]:
    """Return the names that may have an audit stream: all identities ever active, and operators."""
    return [*known_identities(client, keyspace), OPERATORS]


class HasId(Protocol):
    """What stands in a stream."""

    @property
    def id(self) -> str: ...


Found = TypeVar("Found", bound=HasId)


def merged(streams: Iterable[Iterable[Found]], *, newest_first: bool = False) -> Iterator[Found]:
    """Merge trails that are each in order."""
    return heapq.merge(*streams, key=place, reverse=newest_first)


def newest(entries: Iterable[Found], limit: int) -> list[Found]:
    """The first *limit* of entries that come newest first, oldest first."""
    return list(islice(entries, limit))[::-1]


def place(entry: HasId) -> tuple[int, int, int]:
    """Where an entry stands in time; the commands of a batch follow each other."""
    milliseconds, _, number = entry.id.partition("-")
    return int(milliseconds), int(number), getattr(entry, "item", 0)


Test = Callable[[bytes], object]
_CUT = 256
"""The key of a refusal is cut to so many bytes."""
MASK = re.compile(rb"#[0-9a-f]{40}\Z")
"""The end of a masked key, as it is recorded."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries of a trail are meant; what is None does not narrow.

    Attributes:
        token: The token's id.
        key: A key that the entry names. One that is recorded masked is found as well.
        pattern: One that a key of the entry matches. A masked key counts if it may match.
        correlation: The correlation id, as `Entry` has it.
        op: The command's name, in upper case; `XGROUP` stands for all its sub-commands.
        code: The reply code; with one, nothing that was let through is meant.
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
        """Whether it narrows by time alone, so that a number that is missing is a gap."""
        return replace(self, since_ms=None, until_ms=None) == EVERYTHING


EVERYTHING = Query()


class EventMatcher:
    """A query made ready, as two tests of an entry.

    Objects are made only of words that pass the cheap one: that makes the difference between
    some ten thousand and some hundred thousand entries a second.
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self._key_tests = list(_key_tests(query))
        self._word_tests = [*_text_tests(query), *((b"key", test) for test in self._key_tests)]

    def may_accept(self, words: Words) -> bool:
        """Whether to look closer: false only of what `accepts` would refuse."""
        for name, test in self._word_tests:
            value = _field(words, name)
            if value is not None and not test(value):
                return False
        return True

    def accepts(self, entry: AuditEntry) -> bool:
        """Whether *entry* is meant."""
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


def _text_tests(query: Query) -> Iterator[tuple[bytes, Test]]:
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
    """A field's value; None if there is none, or it is not sure: a closer look decides."""
    try:
        at = words.index(name)
    except ValueError:
        return None
    return None if at & 1 else words[at + 1]


def _key_tests(query: Query) -> Iterator[Test]:
    if query.key is not None:
        yield _is_key(query.key)
    if query.pattern is not None:
        yield key_test(query.pattern)


def _is_key(key: bytes) -> Test:
    mask = b"#" + hashlib.sha1(key, usedforsecurity=False).hexdigest().encode()

    def is_key(recorded: bytes) -> bool:
        if recorded.endswith(mask):
            return key.startswith(recorded[: -len(mask)])
        return recorded == key or (len(recorded) == _CUT and key.startswith(recorded))

    return is_key


@lru_cache(maxsize=16)
def key_test(pattern: Pattern) -> Test:
    """Make the test whether a key, as it is recorded, is one that *pattern* may mean."""
    match pattern.parts:
        case (Literal(text),):
            return _is_key(text)
    # The same as patterns.match, which is made to be read, at a tenth of its time.
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
"""More fields than a guard makes: a hash that takes several pages is not a guard's work."""


class RepeatCounts:
    """The numbers of repeats of one identity's refusals, by the id of the first."""

    def __init__(self, client: Client, keyspace: Keyspace, identity: str) -> None:
        self._client = client
        self._stream = keyspace.denied(identity)
        # Before the stream is read: a minute that ends meanwhile has its numbers there.
        self._counts = _counts_of_this_minute(client, keyspace.repeats(identity))

    def note(self, words: Words) -> None:
        """Take in an entry of the stream that counts earlier denials."""
        self._counts.update(repeats_of(pairs_of(words)))

    def look_ahead(self, since_ms: int | None) -> None:
        """Take in all such entries from a time on; the stream is short."""
        for page in read_pages(self._client, self._stream, since_ms):
            for _, words in page:
                if words[0] == b"of":
                    self.note(words)

    def counted(self, denial: Denial) -> Denial:
        """The refusal, with how often it came."""
        count = self._counts.get(denial.id.encode(), 1)
        return denial if count <= 1 else replace(denial, repeats=count)


def read_folded(client: Client, keyspace: Keyspace, identities: Sequence[str]) -> dict[str, int]:
    """
    Count the denials of each identity that have no entry of their own.

    They are counted with the first denial of their kind in their minute. The number begins at 0
    where the identity's hash of counts was lost.
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
    # A fenced agent may have put any number of fields there.
    return _counts_by_id(dict(client.hscan_iter(name, count=_PAGE)))


def _counts_by_id(fields: Mapping[bytes, bytes]) -> dict[bytes, int]:
    return {
        entry_id: number_of(fields.get(alike.removeprefix(_ID), b"1"))
        for alike, entry_id in fields.items()
        if alike.startswith(_ID)
    }


Folded = tuple[bytes, Words, Sequence[Words]]
"""An entry's id and words, and the words of its sequels."""


def read_events(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str],
    query: Query = EVERYTHING,
    *,
    newest_first: bool = False,
) -> Iterator[AuditEvent]:
    """Read what identities did, by time.

    An entry that only corrects an event is not one of its own; a batch is one for each of its
    commands that *query* accepts.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        identities: Whose trails; they need not be active any more. `OPERATORS` have one too.
        query: Which events.
        newest_first: Read backwards.
    """
    client = operator_client(client)
    matcher = EventMatcher(query)

    def stream(identity: str) -> Iterator[AuditEvent]:
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

    return merged(map(stream, identities), newest_first=newest_first)


def read_denials(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str],
    query: Query = EVERYTHING,
    *,
    newest_first: bool = False,
) -> Iterator[Denial]:
    """Read what identities were refused, by time; arguments as for `read_events`.

    How often each was refused alike is known up to now, also of a minute that is not over.
    """
    client = operator_client(client)
    matcher = EventMatcher(query)

    def stream(identity: str) -> Iterator[Denial]:
        repeat_counts = RepeatCounts(client, keyspace, identity)
        # The number of repeats comes when there is a refusal in a later minute: it may be
        # far from the first, and behind the time that is asked for.
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

    return merged(map(stream, identities), newest_first=newest_first)


def events_of(
    identity: str, entry_id: bytes, words: Words, follow_ups: Iterable[Words] = ()
) -> tuple[AuditEvent, ...]:
    """The events of one entry, with what its sequels say."""
    said = (follow_up_entry(pairs_of(follow_up)) for follow_up in follow_ups)
    return audit_events(identity, entry_id, pairs_of(words), [item for item in said if item])


def with_follow_ups(
    pages: Iterable[list[RawEntry]], *, newest_first: bool = False
) -> Iterator[Folded]:
    """Put each entry together with the later ones that are about it.

    The script that appends an entry appends them, and time stands still for a script: oldest
    first, an entry is given out when one of a later millisecond has come.
    """
    waiting: dict[bytes, list[Words]] = defaultdict(list)
    held: list[RawEntry] = []
    for page in chain(pages, [[]]):
        for _, words in page:
            if words[0] == b"of":
                waiting[words[1]].append(words)
        entries = page
        if not newest_first:
            entries = held + page
            end = place_of_last_ms(entries) if page else len(entries)
            entries, held = entries[:end], entries[end:]
        for entry_id, words in entries:
            if words[0] != b"of":
                yield entry_id, words, waiting.pop(entry_id, ())


def denial_of(identity: str, entry_id: bytes, words: Words) -> Denial:
    """The refusal of an entry that is one."""
    return denial_entry(identity, entry_id, pairs_of(words))
