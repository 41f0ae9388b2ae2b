"""Numbers that are missing."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.audit import Gap, read_denials, read_events, with_gaps
from support.streams import KEYS, Streams


def told(entries: Any, newest_first: bool = False) -> list[Any]:
    return [
        (gap.first, gap.last) if isinstance(gap, Gap) else gap.id
        for gap in with_gaps(entries, newest_first=newest_first)
    ]


@pytest.mark.parametrize("newest_first", [False, True])
def test_missing_numbers_are_told_where_they_are_missing(
    embedded_trails: Streams, newest_first: bool
) -> None:
    """Each trail counts for itself; where its first events were trimmed is no gap."""
    for seq in (3, 4, 7, 8):
        embedded_trails.event("a", f"{seq}-0", seq=seq)
    for seq in (5, 6):
        embedded_trails.event("b", f"{seq}-1", seq=seq)

    found = read_events(embedded_trails.client, KEYS, ["a", "b"], newest_first=newest_first)
    expected: list[Any] = ["3-0", "4-0", "5-1", "6-1", (5, 6), "7-0", "8-0"]

    assert told(found, newest_first) == (
        ["8-0", "7-0", "6-1", "5-1", (5, 6), "4-0", "3-0"] if newest_first else expected
    )


def test_numbers_that_begin_anew_are_a_gap_only_after_the_first(embedded_trails: Streams) -> None:
    """Where a state was lost, 1 follows on anything; a 3 says that 1 and 2 are gone."""
    for number, seq in enumerate((8, 1, 2, 3)):
        embedded_trails.event("a", f"{number + 1}-0", seq=seq)
    for number, seq in enumerate((8, 3)):
        embedded_trails.event("b", f"{number + 5}-0", seq=seq)

    found = read_events(embedded_trails.client, KEYS, ["a", "b"])

    assert told(found) == ["1-0", "2-0", "3-0", "4-0", "5-0", (1, 2), "6-0"]


def test_commands_of_a_batch_share_a_number(embedded_trails: Streams) -> None:
    """A batch is one entry, and so are its sequels none."""
    embedded_trails.event("a", "1-0", seq=1)
    embedded_trails.batch("a", "2-0", "SET", "x", "SET", "y", seq=2)
    embedded_trails.error("a", "2-1", of="2-0", item=1)
    embedded_trails.event("a", "3-0", seq=3)

    assert told(read_events(embedded_trails.client, KEYS, ["a"])) == ["1-0", "2-0", "2-0", "3-0"]


def test_refusals_have_numbers_of_their_own(embedded_trails: Streams) -> None:
    """An event and a refusal of one identity are two trails; repeats have no number."""
    embedded_trails.denial("a", "1-0", seq=1)
    embedded_trails.repeats("a", "2-0", of="1-0", count=9)
    embedded_trails.denial("a", "3-0", seq=2)
    embedded_trails.denial("a", "4-0", seq=4)

    assert told(read_denials(embedded_trails.client, KEYS, ["a"])) == ["1-0", "3-0", (3, 3), "4-0"]


def test_entries_without_numbers_have_no_gaps(embedded_trails: Streams) -> None:
    """Events of before there were numbers say nothing of gaps."""
    embedded_trails.event("a", "1-0")
    embedded_trails.event("a", "2-0", seq=5)

    assert told(read_events(embedded_trails.client, KEYS, ["a"])) == ["1-0", "2-0"]
