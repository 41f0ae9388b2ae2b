"""Entries written by real guards, as the reading functions return them."""

from __future__ import annotations

from contextlib import suppress

import pytest
import redis

import keyleash
from keyleash.audit import follow
from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.follow import follow_denials, follow_events
from keyleash.audit.lookup import find_event, with_gaps
from keyleash.audit.operator_actions import read_control
from keyleash.audit.read import Query, read_denials, read_events
from keyleash.limits import Counter
from keyleash.policy.patterns import exactly
from support.leash import Leash, grant
from support.servers import RealServer


@pytest.fixture
def leash(server: RealServer) -> Leash:
    """An identity that records reads, arguments and before-images."""
    leash = Leash(server)
    leash.load(
        one={
            "grants": [grant("read", "write", "delete", keys=["k:*", "secret:*"])],
            "audit": {
                "reads": True,
                "values": "full",
                "mask_keys": ["secret:*"],
                "before_images": {"max_bytes": "1kb"},
            },
        }
    )
    return leash


def test_events_of_a_guard_are_read_in_both_directions(leash: Leash) -> None:
    """Numbers, costs, arguments, before-images, digests, errors and masks are complete."""
    agent = leash.agent("one")
    with keyleash.correlation("c-1"):
        agent.set("k:1", "old")
        agent.set("k:1", b"\xff", px=60_000)
        with suppress(redis.ResponseError):
            agent.lpush("k:1", "x")
        agent.get("k:1")
        agent.set("secret:1", "hidden")
        with agent.pipeline(transaction=False) as pipe:
            pipe.set("k:2", "a")
            pipe.delete("k:1", "k:3")
            pipe.execute()

    events = list(read_events(leash.store, ["one"]))

    assert list(read_events(leash.store, ["one"], newest_first=True)) == events[::-1]
    assert list(with_gaps(events)) == events
    assert [(event.seq, event.item, event.op) for event in events] == [
        (1, 0, "SET"),
        (2, 0, "SET"),
        (3, 0, "LPUSH"),
        (4, 0, "GET"),
        (5, 0, "SET"),
        (6, 1, "SET"),
        (6, 2, "DEL"),
    ]
    first, second, failed, read, secret, _, deleted = events
    assert first.changes[0].before is not None
    assert first.changes[0].before.content is None
    assert second.args == (b"\xff", b"PX", b"60000")
    assert second.cost == {Counter.REQUESTS: 1, Counter.WRITES: 1}
    assert second.changes[0].before is not None
    assert second.changes[0].before.content is not None
    assert second.changes[0].after_expires_ms is not None
    assert failed.error is not None
    assert failed.error.startswith("WRONGTYPE")
    assert read.cost == {Counter.REQUESTS: 1, Counter.READS: 1}
    assert secret.keys[0].startswith(b"secret:#")
    assert secret.args is None
    assert {change.key for change in deleted.changes} == {b"k:1", b"k:3"}
    assert {change.after for change in deleted.changes} == {"absent"}
    assert list(read_events(leash.store, ["one"], Query(pattern=exactly(b"secret:1")))) == [secret]
    assert find_event(leash.store, ["one"], f"audit:one/{deleted.id}") == tuple(events[-2:])


def test_denials_of_a_guard_are_counted_at_once(leash: Leash) -> None:
    """During a minute, the count is stored beside the stream."""
    agent = leash.agent("one")
    for key in ("x", "x", "y", "k:1", "x"):
        with suppress(keyleash.KeyNotGrantedError):
            agent.get(key)

    denials = list(read_denials(leash.store, ["one"]))

    # A minute may end in between.
    assert sum(denial.repeats for denial in denials) == 4
    assert list(read_denials(leash.store, ["one"], newest_first=True)) == denials[::-1]
    (found,) = find_event(leash.store, ["one"], f"denied:one/{denials[0].id}")
    assert isinstance(found, Denial)
    assert found.repeats == denials[0].repeats


def test_events_and_denials_of_a_guard_are_followed(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events come with their errors, and denials come separately."""
    monkeypatch.setattr(follow, "BLOCK_MS", 1)
    agent = leash.agent("one")
    events = follow_events(leash.store, lambda: ["one"])
    denials = follow_denials(leash.store, lambda: ["one"])
    assert (next(events), next(denials)) == (None, None)

    agent.set("k:1", "x")
    with suppress(redis.ResponseError):
        agent.lpush("k:1", "x")
    with suppress(keyleash.LeashError):
        agent.get("x")

    found = list(iter(lambda: next(events), None))
    assert [(event.op, event.error is None) for event in found] == [("SET", True), ("LPUSH", False)]
    assert all(isinstance(event, AuditEvent) for event in found)
    denied = next(denials)
    assert denied is not None
    assert denied.op == "GET"


def test_control_stream_is_read_by_identity_and_token(leash: Leash) -> None:
    """A load names all identities, and other actions name one."""
    issued = leash.issue("one")

    assert [event.event for event in read_control(leash.store)] == ["activate", "issue"]
    assert [event.event for event in read_control(leash.store, ["two"])] == []
    (found,) = read_control(leash.store, ["one"], Query(token=issued.id))
    assert (found.actor, found.identities) == ("ops", frozenset({"one"}))
