"""Lookup of an entry by its id."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.lookup import find_event
from keyleash.audit.operator_actions import ControlEvent
from keyleash.store.store import Store
from support.errors import raises_code
from support.streams import KEYS, Streams


def find(streams: Streams, wanted: str) -> tuple[Any, ...]:
    return find_event(Store(streams.client, KEYS), ["a", "b"], wanted)


def test_event_is_found_with_its_follow_ups(streams: Streams) -> None:
    """All follow-ups are merged, and the id of each finds the event."""
    streams.event("b", "1-0", before="k", expires=-1, image=b"dump")
    streams.append(KEYS.audit("b"), "1-1", "of", "1-0", "after", "0" * 40 + ":-1")
    streams.error("b", "1-2", of="1-0")
    streams.event("b", "1-3", key="other")

    (event,) = find(streams, "1-0")

    assert isinstance(event, AuditEvent)
    assert (event.identity, event.error) == ("b", "ERR no")
    assert event.changes[0].after == "0" * 40
    assert find(streams, "b/1-0") == find(streams, "1-1") == find(streams, "1-2") == (event,)


def test_batch_is_found_with_all_its_commands(streams: Streams) -> None:
    """Each command of a batch is an event."""
    streams.batch("a", "1-0", "SET", "x", "DEL", "y")
    streams.error("a", "1-1", of="1-0", item=2)

    assert [(item.op, item.error) for item in find(streams, "1-0")] == [
        ("SET", None),
        ("DEL", "ERR no"),
    ]


def test_denial_and_operator_action_are_found(streams: Streams) -> None:
    """A denial has the number of its repeats."""
    streams.denial("a", "1-0")
    streams.repeats("a", "90000-0", of="1-0", count=3)
    streams.append(KEYS.control, "2-0", "event", "suspend", "actor", "ops", "identity", "a")

    (denial,) = find(streams, "1-0")
    (event,) = find(streams, "control/2-0")

    assert isinstance(denial, Denial)
    assert denial.repeats == 3
    assert find(streams, "denied:a/1-0") == find(streams, "90000-0") == (denial,)
    assert isinstance(event, ControlEvent)
    assert (event.event, event.actor, event.identities) == ("suspend", "ops", frozenset("a"))


@pytest.mark.parametrize(
    "wanted", ["9-9", "a/1-0", "c/1-0", "denied:b/1-0", "", "1", "x", "1-0 ", "2-0"]
)
def test_unknown_id_is_an_error(embedded_streams: Streams, wanted: str) -> None:
    """This includes malformed ids, other identities, and follow-ups of trimmed events."""
    embedded_streams.event("b", "1-0")
    embedded_streams.error("b", "2-0", of="0-1")

    with raises_code("unknown-event", match="event"):
        find(embedded_streams, wanted)


def test_ambiguous_id_is_an_error_that_names_the_streams(embedded_streams: Streams) -> None:
    """Each suggested name finds one entry."""
    embedded_streams.event("a", "1-0")
    embedded_streams.event("b", "1-0")
    embedded_streams.denial("b", "1-0")

    with raises_code("ambiguous-event", match="3 audit streams") as caught:
        find(embedded_streams, "1-0")
    with raises_code("ambiguous-event", match="2 audit streams"):
        find(embedded_streams, "b/1-0")

    assert caught.value.help == "name one of `a/1-0`, `audit:b/1-0`, `denied:b/1-0`"
    for name in ("a/1-0", "audit:b/1-0", "denied:b/1-0"):
        assert len(find(embedded_streams, name)) == 1
