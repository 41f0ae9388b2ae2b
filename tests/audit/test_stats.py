"""Counts of entries."""

from __future__ import annotations

import pytest

from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.read import read_denials, read_events
from keyleash.audit.stats import ANY_COMMAND, Tally, key_prefix
from keyleash.store.store import Store
from support.streams import KEYS, Streams, count_entries


def test_entries_are_counted_by_identity_command_and_prefix(embedded_streams: Streams) -> None:
    """A call counts once for each prefix of its keys, and denials with their repeats."""
    streams = embedded_streams
    streams.event("a", "1-0", op="SET:3", key="5:p:q:1,5:p:q:2,5:p:r:1,")
    streams.event("b", "2-0", op="DEL", key="p:q:3")
    streams.error("b", "2-1", of="2-0")
    streams.denial("b", "3-0", key="p:q:4")
    streams.repeats("b", "4-0", of="3-0", count=5)
    found: tuple[AuditEvent | Denial, ...] = (
        *read_events(Store(streams.client, KEYS), "ab"),
        *read_denials(Store(streams.client, KEYS), "ab"),
    )

    stats = count_entries(found)

    assert stats.identities == {"a": Tally(1), "b": Tally(1, 1, 5)}
    assert stats.ops == {"SET": Tally(1), "DEL": Tally(1, 1), "GET": Tally(0, 0, 5)}
    assert stats.prefixes == {b"p:q:": Tally(2, 1, 5), b"p:r:": Tally(1)}
    assert stats.codes == {"KEY_NOT_GRANTED": Tally(0, 0, 5)}
    assert (stats.first_ms, stats.last_ms) == (1, 3)


def test_repeats_of_other_commands_are_not_counted_as_the_first_command(
    embedded_streams: Streams,
) -> None:
    """A denial whose kind does not include the command counts repeats of any command."""
    streams = embedded_streams
    streams.denial("a", "1-0", op="RESTORE", code="COMMAND_REFUSED", key="")
    streams.denial("a", "2-0", op="HGETALL", code="WORK_TOO_LARGE", key="h")
    streams.denial("a", "3-0", op="GET", folded="commands")
    streams.denial("a", "4-0", op="RESTORE", code="COMMAND_REFUSED", key="")
    counts = ["of", "1-0", "repeats", 5, "of", "2-0", "repeats", 3, "of", "3-0", "repeats", 4]
    streams.append(KEYS.denied("a"), "5-0", *counts)

    stats = count_entries(read_denials(Store(streams.client, KEYS), "a"))

    assert stats.ops == {
        "RESTORE": Tally(0, 0, 2),
        "HGETALL": Tally(0, 0, 3),
        "GET": Tally(0, 0, 1),
        ANY_COMMAND: Tally(0, 0, 7),
    }
    assert stats.identities == {"a": Tally(0, 0, 13)}


@pytest.mark.parametrize(
    ("key", "segments", "prefix"),
    [
        (b"a:b:c:d", 2, b"a:b:"),
        (b"a:b:c:d", 1, b"a:"),
        (b"a:b", 2, b"a:"),
        (b"a", 2, b""),
        (b"", 2, b""),
        (b"::", 2, b"::"),
    ],
)
def test_prefix_of_a_key_leaves_its_last_segment_out(
    key: bytes, segments: int, prefix: bytes
) -> None:
    """Otherwise each key would be its own prefix."""
    assert key_prefix(key, segments) == prefix
