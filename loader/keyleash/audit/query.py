"""What is looked for in trails, and two tests for it: one of raw words, and the exact one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from keyleash.audit.event import Denial, Entry
from keyleash.audit.pages import Words
from keyleash.policy.model import AnySuffix, Capture, Literal, Pattern
from keyleash.policy.patterns import may_start_with

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
    def takes_all(self) -> bool:
        """Whether it narrows by time alone, so that a number that is missing is a gap."""
        return replace(self, since_ms=None, until_ms=None) == EVERYTHING


EVERYTHING = Query()


class Matcher:
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

    def accepts(self, entry: Entry) -> bool:
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
        yield test_of(query.pattern)


def _is_key(key: bytes) -> Test:
    mask = b"#" + hashlib.sha1(key, usedforsecurity=False).hexdigest().encode()

    def is_key(recorded: bytes) -> bool:
        if recorded.endswith(mask):
            return key.startswith(recorded[: -len(mask)])
        return recorded == key or (len(recorded) == _CUT and key.startswith(recorded))

    return is_key


@lru_cache(maxsize=16)
def test_of(pattern: Pattern) -> Test:
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
