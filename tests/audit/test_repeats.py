"""How often a refusal came."""

from __future__ import annotations

import pytest

from keyleash.audit import Query, read_denials
from support.streams import KEYS, Streams


@pytest.mark.parametrize("newest_first", [False, True])
def test_repeats_are_folded_into_the_refusal(streams: Streams, newest_first: bool) -> None:
    """The number stands far behind the refusal, also behind the time that is asked for."""
    streams.denial("a", "1000-0")
    streams.denial("a", "2000-0", op="DEL")
    streams.denial("a", "70000-0")
    streams.repeats("a", "70000-1", of="1000-0", count=17)

    def repeats(query: Query) -> list[tuple[str, int]]:
        found = read_denials(streams.client, KEYS, ["a"], query, newest_first=newest_first)
        return sorted((denial.id, denial.repeats) for denial in found)

    assert repeats(Query()) == [("1000-0", 17), ("2000-0", 1), ("70000-0", 1)]
    assert repeats(Query(until_ms=2000)) == [("1000-0", 17), ("2000-0", 1)]
    assert repeats(Query(since_ms=2000)) == [("2000-0", 1), ("70000-0", 1)]


def test_repeats_of_a_minute_that_is_not_over_are_known(streams: Streams) -> None:
    """Until the minute ends they are counted beside the stream."""
    streams.denial("a", "1000-0")
    alike = "0:t:KEY_NOT_GRANTED:GET:"
    counts = {"seq": 1, "minute": 0, alike: 5, f"id:{alike}": "1000-0"}
    streams.client.hset(KEYS.repeats("a"), mapping=counts)

    assert [denial.repeats for denial in read_denials(streams.client, KEYS, ["a"])] == [5]
