"""Counts of repeated denials."""

from __future__ import annotations

import pytest

from keyleash.audit.read import Query, read_denials
from keyleash.store.store import Store
from support.streams import KEYS, Streams


@pytest.mark.parametrize("newest_first", [False, True])
def test_repeats_are_merged_into_the_denial(streams: Streams, newest_first: bool) -> None:
    """The count is recorded later than the denial, perhaps after the time range."""
    streams.denial("a", "1000-0")
    streams.denial("a", "2000-0", op="DEL")
    streams.denial("a", "70000-0")
    streams.repeats("a", "70000-1", of="1000-0", count=17)

    def repeats(query: Query) -> list[tuple[str, int]]:
        found = read_denials(Store(streams.client, KEYS), ["a"], query, newest_first=newest_first)
        return sorted((denial.id, denial.repeats) for denial in found)

    assert repeats(Query()) == [("1000-0", 17), ("2000-0", 1), ("70000-0", 1)]
    assert repeats(Query(until_ms=2000)) == [("1000-0", 17), ("2000-0", 1)]
    assert repeats(Query(since_ms=2000)) == [("2000-0", 1), ("70000-0", 1)]


def test_repeats_of_the_current_minute_are_counted(streams: Streams) -> None:
    """Until the minute ends, the count is stored beside the stream."""
    streams.denial("a", "1000-0")
    kind = "0:t:KEY_NOT_GRANTED:GET:"
    counts = {"seq": 1, "minute": 0, kind: 5, f"id:{kind}": "1000-0"}
    streams.client.hset(KEYS.repeats("a"), mapping=counts)

    assert [denial.repeats for denial in read_denials(Store(streams.client, KEYS), ["a"])] == [5]
