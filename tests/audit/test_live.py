"""Following of streams."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from keyleash.audit import follow
from keyleash.audit.follow import follow_control, follow_denials, follow_events
from keyleash.audit.read import Query
from keyleash.store import streams as paging
from keyleash.store.store import Store
from support.streams import KEYS, Streams


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for entries: each test appends them before it reads."""
    monkeypatch.setattr(follow, "BLOCK_MS", 1)


def until_quiet(found: Iterator[Any]) -> list[Any]:
    """Return the entries up to the first wait without one."""
    return list(iter(lambda: next(found), None))


def test_only_new_events_are_followed_by_time(streams: Streams) -> None:
    """Earlier events are not returned, and the streams of identities are merged."""
    streams.event("a", "1-0")
    found = follow_events(Store(streams.client, KEYS), lambda: ["a", "b"])
    assert until_quiet(found) == []

    streams.event("a", "3-0")
    streams.event("b", "2-0")
    streams.error("b", "2-1", of="2-0")

    assert [(event.id, event.error) for event in until_quiet(found)] == [
        ("2-0", "ERR no"),
        ("3-0", None),
    ]
    assert until_quiet(found) == []


def test_events_since_a_time_come_first(streams: Streams) -> None:
    """Earlier events are followed by new ones without a gap."""
    for number in (1, 2, 3):
        streams.event("a", f"{number}-0")
    found = follow_events(Store(streams.client, KEYS), lambda: ["a"], Query(since_ms=2))

    assert [event.id for event in until_quiet(found)] == ["2-0", "3-0"]
    streams.event("a", "4-0")
    assert [event.id for event in until_quiet(found)] == ["4-0"]


def test_new_identity_is_followed_from_its_first_event(streams: Streams) -> None:
    """A policy may be loaded while events are followed."""
    names = ["a"]
    found = follow_events(Store(streams.client, KEYS), lambda: names)
    assert until_quiet(found) == []

    streams.event("new", "1-0")
    names.append("new")

    assert [event.identity for event in until_quiet(found)] == ["new"]


def test_follow_without_identities_is_not_an_error(streams: Streams) -> None:
    """The first policy may be loaded later."""
    names: list[str] = []
    found = follow_events(Store(streams.client, KEYS), lambda: names)
    assert until_quiet(found) == []

    names.append("a")
    streams.event("a", "1-0")

    assert [event.id for event in until_quiet(found)] == ["1-0"]


@pytest.mark.parametrize("page", [1, 2, 3])
def test_follow_ups_after_a_full_page_are_merged(
    embedded_streams: Streams, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """The last millisecond of a full page is read with the next page, or completed at once."""
    monkeypatch.setattr(follow, "FIRST_PAGE", page)
    monkeypatch.setattr(follow, "next_count", lambda _page: page)
    for number in range(1, 7):
        embedded_streams.event("a", f"{number}-0")
        if number % 2:
            embedded_streams.error("a", f"{number}-1", of=f"{number}-0")
    found = follow_events(Store(embedded_streams.client, KEYS), lambda: ["a"], Query(since_ms=0))

    events = [event for _ in range(12) for event in until_quiet(found)]

    assert [event.id for event in events] == [f"{number}-0" for number in range(1, 7)]
    assert [event.error is not None for event in events] == [True, False] * 3


def test_backlog_of_large_entries_is_read_in_small_pages(embedded_streams: Streams) -> None:
    """Before-images make entries large, and the server must not copy all of them at once."""
    for number in range(1, 120):
        for name in "ab":
            embedded_streams.event(name, f"{number}-0", before="k", expires=-1, image=b"x" * 64_000)
    client = embedded_streams.client
    found = follow_events(Store(client, KEYS), lambda: ["a", "b"], Query(since_ms=0))
    client.config_resetstat()

    events = list(islice(filter(None, found), 238))

    calls = client.info("commandstats")["cmdstat_xread"]["calls"]
    assert len(events) == 238
    assert calls > 10


def test_repeated_denial_is_returned_again_with_its_count(streams: Streams) -> None:
    """The first comes at once, and again when the count is recorded."""
    found = follow_denials(Store(streams.client, KEYS), lambda: ["a"], Query(op="GET"))
    assert until_quiet(found) == []

    streams.denial("a", "1-0")
    streams.denial("a", "2-0", op="SET")
    assert [(denial.id, denial.repeats) for denial in until_quiet(found)] == [("1-0", 1)]
    streams.repeats("a", "61000-0", of="1-0", count=8)
    streams.repeats("a", "61000-1", of="0-1", count=8)
    assert [(denial.id, denial.repeats) for denial in until_quiet(found)] == [("1-0", 8)]


def test_denials_counted_in_one_entry_are_returned_again(streams: Streams) -> None:
    """Each has its own count, and a trimmed denial is not returned."""
    found = follow_denials(Store(streams.client, KEYS), lambda: ["a"], Query(since_ms=0))
    streams.denial("a", "1-0")
    streams.denial("a", "2-0", folded="commands")
    counts = [("of", of, "repeats", count) for of, count in (("1-0", 8), ("1-1", 5), ("2-0", 3))]
    streams.append(KEYS.denied("a"), "61000-0", *(word for words in counts for word in words))

    assert [(item.id, item.repeats, item.folded) for item in until_quiet(found)] == [
        ("1-0", 1, ""),
        ("1-0", 8, ""),
        ("2-0", 1, "commands"),
        ("2-0", 3, "commands"),
    ]


def test_operator_actions_are_followed(streams: Streams) -> None:
    """All actions are followed, or those of one identity."""
    found = follow_control(Store(streams.client, KEYS))
    of_a = follow_control(Store(streams.client, KEYS), ["a"])
    assert until_quiet(found) == until_quiet(of_a) == []

    for number, identity in enumerate("ab"):
        streams.append(KEYS.control, f"{number + 1}-0", "event", "issue", "identity", identity)

    assert [event.id for event in until_quiet(found)] == ["1-0", "2-0"]
    assert [event.id for event in until_quiet(of_a)] == ["1-0"]


def test_backlog_of_many_pages_is_followed_without_loss(embedded_streams: Streams) -> None:
    """Each read is bounded, so that the server can serve other clients between two of them."""
    count = 2 * paging.MAX_PAGE + 10
    with embedded_streams.client.pipeline() as pipe:
        for number in range(1, count + 1):
            pipe.xadd(KEYS.audit("a"), {"SET": "k"}, id=f"{number}-0")
        pipe.execute()
    found = follow_events(Store(embedded_streams.client, KEYS), lambda: ["a"], Query(since_ms=0))

    events = list(islice(filter(None, found), count))

    assert [event.time_ms for event in events] == list(range(1, count + 1))
