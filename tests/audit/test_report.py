"""The content of a report: timelines, key histories, policies and tokens in effect."""

from __future__ import annotations

from contextlib import suppress

import pytest
import redis

import keyleash
from keyleash.addons.report import activity, key_history
from keyleash.addons.report.activity import Activity, read_activity, read_context
from keyleash.addons.report.key_history import BeforeAndAfter, Timeline, read_before_and_after
from keyleash.audit.read import Query
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.store import Store
from support.leash import NAMES, Leash, grant
from support.scribe import Scribe
from support.servers import RealServer
from support.streams import Streams

HOUR_MS = 3_600_000


@pytest.fixture
def scribe(embedded: RealServer) -> Scribe:
    """Writes events with before-images, without guards."""
    return Scribe(embedded.client())


def before_and_after(scribe: Scribe, query: Query) -> dict[bytes, BeforeAndAfter]:
    """Return the values of each key before and after the events."""
    found = read_activity(Store(scribe.client, NAMES), ["one", "two"], query)
    values = read_before_and_after(Store(scribe.client, NAMES), found.histories.by_key.values())
    return {item.history.key: item for item in values}


def test_timeline_of_a_long_time_has_few_wide_columns() -> None:
    """Columns are joined as the range grows, and no count is lost."""
    timeline = Timeline()
    for minute in range(0, 60 * 24 * 40, 7):
        timeline.add(minute * 60_000, "one")
        timeline.add(minute * 60_000, "two", 2)

    days = len(range(0, 60 * 24 * 40, 7))
    assert len(timeline.pieces) <= 90
    assert timeline.width_ms == 12 * HOUR_MS
    assert sum(count for (_, name), count in timeline.counts.items() if name == "one") == days
    assert timeline.counts.total() == 3 * days
    assert {piece for piece, _ in timeline.counts} <= set(timeline.pieces)


def test_timeline_of_one_moment_has_several_columns() -> None:
    """A single bar of full width would not be readable."""
    timeline = Timeline()
    timeline.add(5_000, "one")

    assert timeline.pieces[0] == 5
    assert len(timeline.pieces) == 12


def test_activity_stores_both_ends_and_counts_the_rest(
    embedded_streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of stored entries is bounded."""
    monkeypatch.setattr(key_history, "MAX_KEYS", 10)
    for number in range(1, 301):
        embedded_streams.event("one", f"{number}-1", key=f"k:{number}", seq=number)

    found = read_activity(Store(embedded_streams.client, NAMES), ["one"], Query())

    assert found.entries == 300
    assert [item.id for item in found.first] == [f"{number}-1" for number in range(1, 51)]
    assert [item.id for item in found.last] == [f"{number}-1" for number in range(251, 301)]
    assert found.left_out == 200
    assert (len(found.histories.by_key), found.histories.further_events) == (10, 290)


def test_activity_has_repeats_gaps_and_trimmed_streams(embedded_streams: Streams) -> None:
    """Missing entries are reported, so that counts are not misleading."""
    embedded_streams.event("one", "1000-0", seq=8)
    embedded_streams.event("one", "2000-0", seq=11)
    embedded_streams.event("two", "1500-0", seq=1)
    embedded_streams.denial("one", "3000-0", seq=1, reason="r")
    embedded_streams.repeats("one", "90000-0", "3000-0", 41)

    def read(query: Query) -> Activity:
        return read_activity(Store(embedded_streams.client, NAMES), ["one", "two"], query)

    found = read(Query())
    assert [(group.count, group.first.id) for group in found.denials.values()] == [(41, "3000-0")]
    assert found.denied.counts.total() == 41
    assert found.operations.counts.total() == 3
    assert (found.missing, found.gaps[0].first) == (2, 9)
    assert found.trimmed == ["one"]
    assert read(Query(since_ms=1001)).trimmed == []
    assert read(Query(correlation="c")).missing == 0


def test_key_history_has_values_before_after_and_now(scribe: Scribe) -> None:
    """Later changes by others are visible, and an expiry is not a change."""
    scribe.client.set("k", "old")
    first = scribe.run("one", "SET", "k", "middle", correlation="c")
    scribe.run("one", "APPEND", "k", "!", correlation="c")
    scribe.run("two", "SET", "k", "theirs", correlation="other")
    scribe.run("one", "SET", "left", "x", correlation="c")
    scribe.client.set("gone", "x", pxat=int(first.partition("-")[0]) + 60_000)
    scribe.run("one", "DEL", "gone", correlation="c")

    found = before_and_after(scribe, Query(correlation="c"))

    def text(key: bytes) -> list[bytes | None]:
        values = (found[key].before, found[key].after, found[key].now)
        return [value.elements[0] if value and value.elements else None for value in values]

    assert text(b"k") == [b"old", b"middle!", b"theirs"]
    assert text(b"left") == [None, b"x", b"x"]
    assert [found[key].is_unchanged for key in (b"k", b"left", b"gone")] == [False, True, True]
    assert found[b"k"].history.events == 2
    assert found[b"gone"].before is not None
    assert found[b"gone"].before.expires_ms is not None
    assert found[b"gone"].after is not None
    assert found[b"gone"].after.is_absent


def test_key_history_without_before_image_has_no_values(scribe: Scribe) -> None:
    """An unknown value is None, which is not an absent key."""
    scribe.run("one", "SET", "k", "x", images=False)
    masked = b"secret:#" + b"0" * 40
    scribe.run("one", "SET", "secret:1", "x", images=False, keys=[masked.decode()])

    found = before_and_after(scribe, Query())

    assert (found[b"k"].before, found[b"k"].after, found[b"k"].is_unchanged) == (None, None, None)
    assert found[b"k"].now is not None
    assert found[masked].now is None


def test_before_images_past_the_bound_are_dropped(
    scribe: Scribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with the size of before-images."""
    monkeypatch.setattr(key_history, "MAX_IMAGE_BYTES", 10)
    for key in ("a", "b"):
        scribe.client.set(key, "12345678")
        scribe.run("one", "SET", key, "x")

    found = before_and_after(scribe, Query())

    assert [found[key].history.is_dropped for key in (b"a", b"b")] == [False, True]
    assert found[b"b"].before is None


def test_context_has_policies_and_tokens_of_the_time_range(server: RealServer) -> None:
    """It has policies in effect, valid or used tokens, and operator actions."""
    leash = Leash(server)
    rules = {"grants": [grant("read", "write", keys="k:*")]}
    leash.load(one=rules, two=rules)
    old = leash.issue("one", note="old")
    revoke(leash.store, token_id=old.id)
    leash.load(one=rules)
    valid = leash.issue("one", note="valid")
    agent = leash.client(valid.token)
    agent.set("k:1", "x")
    with suppress(redis.ResponseError):
        agent.set("other", "x")
    control = leash.admin.execute_command("XRANGE", NAMES.control, "-", "+")
    times = [int(entry_id.partition(b"-")[0]) for entry_id, _ in control]
    now_ms = times[-1] + HOUR_MS

    everything = read_context(leash.store, None, times[0], now_ms)
    later = read_context(leash.store, ["one"], now_ms - 1, now_ms)
    used = read_context(leash.store, None, now_ms - 1, now_ms, used=[("one", old.id)])

    assert [policy.generation for policy in everything.policies] == [1, 2]
    assert everything.policies[0].until_ms == everything.policies[1].from_ms
    assert set(everything.policies[0].rules) == {"one", "two"}
    assert {token.id for token in everything.tokens} == {old.id, valid.id}
    assert [action.event for action in everything.actions] == [
        "activate",
        "issue",
        "revoke",
        "activate",
        "issue",
    ]
    assert [policy.generation for policy in later.policies] == [2]
    assert [(token.id, token.note) for token in later.tokens] == [(valid.id, "valid")]
    assert later.actions == []
    revoked = {token.id: token for token in used.tokens}[old.id]
    assert (revoked.revoked_by, revoked.revoked_ms) == ("ops", times[2])


def test_activity_of_real_guards_has_tokens_and_denials(server: RealServer) -> None:
    """Entries of real guards have numbers, counts and denials."""
    leash = Leash(server)
    leash.load(
        one={
            "grants": [grant("read", "write", keys="k:*")],
            "audit": {"reads": True, "before_images": {"max_bytes": "1kb"}},
        }
    )
    token = leash.issue("one")
    agent = leash.client(token.token)
    with keyleash.correlation("c-1"):
        agent.set("k:1", "x")
        agent.get("k:1")
        for _ in range(3):
            with suppress(redis.ResponseError):
                agent.set("other", "x")

    found = read_activity(leash.store, ["one"], Query())

    tally = found.tokens["one", token.id]
    assert (tally.events, tally.denied) == (2, 3)
    assert [key[1] for key in found.denials] == ["KEY_NOT_GRANTED"]
    assert list(found.histories.by_key) == [b"k:1"]
    assert (found.missing, found.trimmed) == (0, [])
    assert activity.ENDS >= len(found.first) == 3
