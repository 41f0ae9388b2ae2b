"""Gaps in sequence numbers."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.audit.lookup import Gap, Restart, with_gaps
from keyleash.audit.read import read_denials, read_events
from keyleash.store.store import Store
from support.streams import KEYS, Streams


def described(entries: Any, newest_first: bool = False) -> list[Any]:
    return [
        (gap.first, gap.last) if isinstance(gap, Gap) else gap.id
        for gap in with_gaps(entries, newest_first=newest_first)
        if not isinstance(gap, Restart)
    ]


@pytest.mark.parametrize("newest_first", [False, True])
def test_missing_numbers_are_reported_in_place(
    embedded_streams: Streams, newest_first: bool
) -> None:
    """Each stream has its own numbers, and a trimmed beginning is not a gap."""
    for seq in (3, 4, 7, 8):
        embedded_streams.event("a", f"{seq}-0", seq=seq)
    for seq in (5, 6):
        embedded_streams.event("b", f"{seq}-1", seq=seq)

    found = read_events(Store(embedded_streams.client, KEYS), ["a", "b"], newest_first=newest_first)
    expected: list[Any] = ["3-0", "4-0", "5-1", "6-1", (5, 6), "7-0", "8-0"]

    assert described(found, newest_first) == (
        ["8-0", "7-0", "6-1", "5-1", (5, 6), "4-0", "3-0"] if newest_first else expected
    )


def test_restarted_numbers_are_a_gap_unless_they_begin_at_one(embedded_streams: Streams) -> None:
    """After the loss of a state, 1 is expected; a 3 shows that 1 and 2 are missing."""
    for number, seq in enumerate((8, 1, 2, 3)):
        embedded_streams.event("a", f"{number + 1}-0", seq=seq)
    for number, seq in enumerate((8, 3)):
        embedded_streams.event("b", f"{number + 5}-0", seq=seq)

    found = read_events(Store(embedded_streams.client, KEYS), ["a", "b"])

    assert described(found) == ["1-0", "2-0", "3-0", "4-0", "5-0", (1, 2), "6-0"]


def test_commands_of_a_batch_share_a_number(embedded_streams: Streams) -> None:
    """A batch is one entry, and follow-ups have no number."""
    embedded_streams.event("a", "1-0", seq=1)
    embedded_streams.batch("a", "2-0", "SET", "x", "SET", "y", seq=2)
    embedded_streams.error("a", "2-1", of="2-0", item=1)
    embedded_streams.event("a", "3-0", seq=3)

    assert described(read_events(Store(embedded_streams.client, KEYS), ["a"])) == [
        "1-0",
        "2-0",
        "2-0",
        "3-0",
    ]


def test_denials_have_separate_numbers(embedded_streams: Streams) -> None:
    """Events and denials of an identity are two streams; repeats have no number."""
    embedded_streams.denial("a", "1-0", seq=1)
    embedded_streams.repeats("a", "2-0", of="1-0", count=9)
    embedded_streams.denial("a", "3-0", seq=2)
    embedded_streams.denial("a", "4-0", seq=4)

    assert described(read_denials(Store(embedded_streams.client, KEYS), ["a"])) == [
        "1-0",
        "3-0",
        (3, 3),
        "4-0",
    ]


def test_entries_without_numbers_have_no_gaps(embedded_streams: Streams) -> None:
    """Entries without numbers cannot show a gap."""
    embedded_streams.event("a", "1-0")
    embedded_streams.event("a", "2-0", seq=5)

    assert described(read_events(Store(embedded_streams.client, KEYS), ["a"])) == ["1-0", "2-0"]
