"""Queries: the entries that match, and the cheap test before parsing."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.audit import Query, read_denials, read_events
from keyleash.audit.entries import audit_events
from keyleash.audit.read import EventMatcher
from keyleash.policy.patterns import match, parse_pattern
from keyleash.store.store import Store
from keyleash.store.streams import pairs_of
from support.streams import KEYS, Streams

PATTERNS = (
    "a*",
    "*",
    "a:{x}",
    "a:{x}:b",
    "a:p{x}s:*",
    "a:{x}:{y}",
    "{{{x}}}:b",
    ":*",
    "a::b",
    "a.b",
)
SECRET = b"agents:secrets:42"
MASKED = b"agents:secrets:#" + hashlib.sha1(SECRET, usedforsecurity=False).hexdigest().encode()

pieces = st.sampled_from([b"a", b"b", b":", b"p", b"s", b"{", b"}", b"\n", b"\xff", b".", b"key"])
keys = st.lists(pieces, max_size=6).map(b"".join)
ops = st.sampled_from([b"SET", b"DEL", b"XGROUP CREATE", b"key", b"op", b"token"])
texts = st.sampled_from([b"t", b"c", b"key", b"op", b"correlation", b"c\xff", b"", b"SET"])


@st.composite
def entries(draw: st.DrawFn) -> list[bytes]:
    """The words of an event of one command, of several keys, or of a batch."""
    head = [b"seq", b"1", b"token", draw(texts)]
    tail = [b"correlation", draw(texts), b"policy", b"p 1"]
    if draw(st.booleans()):
        return [*head, b"op", draw(ops), b"key", draw(keys), *tail]
    commands = draw(st.lists(st.tuples(ops.filter(bytes.isupper), keys), max_size=3))
    return [*head, *tail, *(word for pair in commands for word in pair)]


@given(st.sampled_from(PATTERNS), keys)
def test_key_matches_as_the_pattern_does(source: str, key: bytes) -> None:
    """The regular expression of a query matches the same keys as the pattern of a policy."""
    pattern = parse_pattern(source)
    event = audit_events("a", b"1-0", [(b"op", b"SET"), (b"key", key or b"-")])[0]

    expected = match(pattern, key or b"-") is not None
    assert EventMatcher(Query(pattern=pattern)).accepts(event) is expected


@given(
    entries(),
    st.builds(
        Query,
        token=st.none() | st.sampled_from(["t", "c", "key", "op"]),
        correlation=st.none() | st.sampled_from(["c", r"c\xff", "correlation", ""]),
        op=st.none() | st.sampled_from(["SET", "XGROUP", "KEY"]),
        key=st.none() | keys,
        pattern=st.none() | st.sampled_from([parse_pattern(source) for source in PATTERNS]),
    ),
)
def test_rejected_words_have_no_matching_event(words: list[bytes], query: Query) -> None:
    """The cheap test may accept too many entries, but never rejects a match."""
    matcher = EventMatcher(query)
    accepted = [e for e in audit_events("a", b"1-0", pairs_of(words)) if matcher.accepts(e)]

    assert matcher.may_accept(words) or not accepted


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(token="other"), ["2-0"]),
        (Query(op="XGROUP"), ["3-0"]),
        (Query(op="XGROUP CREATE"), ["3-0"]),
        (Query(op="XG"), []),
        (Query(correlation=r"c\xff"), ["4-0"]),
        (Query(pattern=parse_pattern("a:{x}:state")), ["4-0", "5-0"]),
        (Query(pattern=parse_pattern("a:*"), op="DEL"), ["5-0"]),
        (Query(key=b"k"), ["1-0", "2-0", "3-0"]),
        (Query(code="KEY_DENIED"), []),
        (Query(since_ms=2, until_ms=4), ["2-0", "3-0", "4-0"]),
    ],
)
def test_query_selects_the_matching_events(
    streams: Streams, query: Query, expected: list[str]
) -> None:
    """Filters work alone and together, and time ranges include both ends."""
    streams.event("a", "1-0")
    streams.event("b", "2-0", token="other")
    streams.event("a", "3-0", op="XGROUP CREATE")
    streams.event("b", "4-0", correlation=b"c\xff", key="a:1:state")
    streams.event("a", "5-0", op="DEL", key=None, keys="3:a:1,9:a:2:state,")

    for newest_first in (False, True):
        found = read_events(
            Store(streams.client, KEYS), ["a", "b"], query, newest_first=newest_first
        )
        ids = [event.id for event in found]
        assert (ids[::-1] if newest_first else ids) == expected


def test_query_selects_single_commands_of_a_batch(streams: Streams) -> None:
    """Only matching commands are returned, with their place in the batch."""
    streams.batch("a", "1-0", "SET", "a:1", "MSET:2", "3:a:2,3:b:1,", "DEL", "b:2")
    query = Query(pattern=parse_pattern("b:*"))

    found = list(read_events(Store(streams.client, KEYS), ["a"], query))

    assert [(event.item, event.op) for event in found] == [(2, "MSET"), (3, "DEL")]
    assert (
        list(read_events(Store(streams.client, KEYS), ["a"], query, newest_first=True))
        == found[::-1]
    )


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        (Query(key=SECRET), True),
        (Query(key=b"agents:secrets:43"), False),
        (Query(key=MASKED), True),
        (Query(pattern=parse_pattern("agents:secrets:*")), True),
        (Query(pattern=parse_pattern("agents:{kind}:42")), True),
        (Query(pattern=parse_pattern("agents:jobs:*")), False),
    ],
)
def test_masked_key_is_found_by_the_key_and_by_what_may_match(
    streams: Streams, query: Query, is_found: bool
) -> None:
    """Masking hides a key from readers, but an operator who knows the key finds its events."""
    streams.event("a", "1-0", key=MASKED)

    assert bool(list(read_events(Store(streams.client, KEYS), ["a"], query))) is is_found


def test_cut_key_of_a_denial_is_found(streams: Streams) -> None:
    """A denial records 256 bytes of a key."""
    key = b"k" * 300
    streams.denial("a", "1-0", key=key[:256])

    assert len(list(read_denials(Store(streams.client, KEYS), ["a"], Query(key=key)))) == 1
    assert not list(read_denials(Store(streams.client, KEYS), ["a"], Query(key=key[:255])))


def test_query_by_code_selects_denials(streams: Streams) -> None:
    """Only denials have a code."""
    streams.denial("a", "1-0")
    streams.denial("a", "2-0", code="RATE_LIMITED", reason="writes")

    found: list[Any] = list(
        read_denials(Store(streams.client, KEYS), ["a"], Query(code="RATE_LIMITED"))
    )

    assert [(denial.id, denial.reason) for denial in found] == [("2-0", "writes")]
