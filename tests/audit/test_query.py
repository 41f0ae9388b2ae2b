"""Queries: the entries that match, and the cheap test before parsing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.audit.entries import AuditEvent, audit_events
from keyleash.audit.read import EventMatcher, Query, read_denials, read_events
from keyleash.policy.patterns import exactly, match, parse_pattern
from keyleash.store.store import Store
from keyleash.store.streams import pairs_of
from support.streams import KEYS, Streams, packed_keys
from support.thorough import thorough

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
ops = st.sampled_from([b"SET", b"DEL", b"XGROUP CREATE"])
texts = st.sampled_from([b"t", b"c", b"key", b"op", b"correlation", b"c\xff", b"", b"SET"])


@st.composite
def calls(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """The field of a command with one key, of one with several, or of a run."""
    op, touched = draw(ops), draw(st.lists(keys, max_size=3))
    if len(touched) == 1:
        return op, touched[0]
    if draw(st.booleans()):
        return b"%s*%d" % (op, len(touched)), draw(st.just(packed_keys(touched)) | keys)
    netstrings = b"".join(b"%d:%s," % (len(key), key) for key in touched)
    return b"%s:%d" % (op, len(touched)), draw(st.just(netstrings) | keys)


@st.composite
def entries(draw: st.DrawFn) -> list[bytes]:
    """The words of an event of one command, of several keys, of a batch, or of runs."""
    head = [b"seq", b"1", b"token", draw(texts), b"policy", b"p 1", b"correlation", draw(texts)]
    commands = draw(st.lists(calls(), min_size=1, max_size=3))
    tail = draw(st.sampled_from([[], [b"lengths", b"1"], [b"before", b"a", b"expires", b"-1"]]))
    of_undo = draw(st.sampled_from([[], [b"actor", b"SET"]]))
    source = draw(st.just([]) | texts.map(lambda text: [b"source", text]))
    return [*head, *source, *of_undo, *chain(*commands), *tail]


@pytest.mark.parametrize("source", [[], [b"source", b"DEL"]])
def test_other_commands_are_skipped_without_being_parsed(source: list[bytes]) -> None:
    """Also after a source, which is no name of a command."""
    head = [b"seq", b"1", b"token", b"t", b"policy", b"p", b"correlation", b"c"]
    words = [*head, *source, b"SET", b"a"]

    assert EventMatcher(Query(op="SET")).may_accept(words)
    assert not EventMatcher(Query(op="DEL")).may_accept(words)
    assert EventMatcher(Query(op="DEL")).may_accept([*head, *source])


@given(st.sampled_from(PATTERNS), keys)
def test_key_matches_as_the_pattern_does(source: str, key: bytes) -> None:
    """The regular expression of a query matches the same keys as the pattern of a policy."""
    pattern = parse_pattern(source)
    event = audit_events("a", b"1-0", [(b"SET", key or b"-")])[0]

    expected = match(pattern, key or b"-") is not None
    assert EventMatcher(Query(pattern=pattern)).accepts(event) is expected


def queries_of(events: Sequence[AuditEvent]) -> st.SearchStrategy[Query]:
    """Queries of which many match one of *events*."""
    pattern = st.none() | st.sampled_from([parse_pattern(source) for source in PATTERNS])

    def queries(event: AuditEvent) -> st.SearchStrategy[Query]:
        return st.builds(
            Query,
            token=st.sampled_from([None, event.token, "t", "op"]),
            correlation=st.sampled_from([None, event.correlation, "c", ""]),
            op=st.sampled_from([None, event.op, "SET", "XGROUP", "KEY"]),
            pattern=pattern | (st.sampled_from([b"", *event.keys]) | keys).map(exactly),
        )

    return st.sampled_from(events).flatmap(queries)


@thorough(300)
@given(entries(), st.data())
def test_rejected_words_have_no_matching_event(words: list[bytes], data: st.DataObject) -> None:
    """The cheap test may accept too many entries, but never rejects a match."""
    events = audit_events("a", b"1-0", pairs_of(words))
    matcher = EventMatcher(data.draw(queries_of(events)))

    assert matcher.may_accept(words) or not any(map(matcher.accepts, events))


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
        (Query(pattern=exactly(b"k")), ["1-0", "2-0", "3-0"]),
        (Query(code="KEY_DENIED"), []),
        (Query(since_ms=2, until_ms=4), ["2-0", "3-0", "4-0"]),
    ],
)
def test_query_selects_the_matching_events(
    streams: Streams, query: Query, expected: list[str]
) -> None:
    """Filters work alone and together, and time ranges include both ends."""
    streams.event("a", "1-0", seq=1)
    streams.event("b", "2-0", seq=1, token="other")
    streams.event("a", "3-0", seq=2, op="XGROUP CREATE")
    streams.event("b", "4-0", seq=2, correlation=b"c\xff", key="a:1:state")
    streams.event("a", "5-0", seq=3, op="DEL:2", key="3:a:1,9:a:2:state,")

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
        (Query(pattern=exactly(SECRET)), True),
        (Query(pattern=exactly(b"agents:secrets:43")), False),
        (Query(pattern=exactly(MASKED)), True),
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

    assert (
        len(list(read_denials(Store(streams.client, KEYS), ["a"], Query(pattern=exactly(key)))))
        == 1
    )
    assert not list(
        read_denials(Store(streams.client, KEYS), ["a"], Query(pattern=exactly(key[:255])))
    )


def test_query_by_code_selects_denials(streams: Streams) -> None:
    """Only denials have a code."""
    streams.denial("a", "1-0")
    streams.denial("a", "2-0", code="RATE_LIMITED", reason="writes")

    found: list[Any] = list(
        read_denials(Store(streams.client, KEYS), ["a"], Query(code="RATE_LIMITED"))
    )

    assert [(denial.id, denial.reason) for denial in found] == [("2-0", "writes")]
