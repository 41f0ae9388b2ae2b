"""Being suspended: the number in the state that says so, and until when."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

import keyleash
from keyleash.audit.operator_actions import read_control
from keyleash.operator.suspension import freeze, thaw
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.keyspace import Keyspace
from keyleash.store.state import Layout, unpack_state
from support.errors import raises_code
from support.leash import NAMES, Leash, grant

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="doc:*")]}


def now_us(leash: Leash) -> int:
    seconds, micros = leash.admin.time()
    return int(seconds) * 1_000_000 + int(micros)


def write_suspended(leash: Leash, identity: str, number: float, names: Keyspace = NAMES) -> None:
    """Write the number of a suspension, on a cluster at the home; tokens are looked up again."""
    leash.admin.setrange(names.state(identity), 8, struct.pack("<d", number))
    leash.end_leases()


def suspended(leash: Leash, identity: str) -> int:
    layout = Layout.from_json(leash.admin.hget(NAMES.layouts, identity))
    return unpack_state(leash.state(identity), layout).suspended


def test_number_of_a_suspension_is_until_it_is_ended_or_until_its_time(leash: Leash) -> None:
    """1 has no end, a time is the end, and a negative number always denies."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    until_us = now_us(leash) + 3_600_000_500

    for number, end in (
        (1, "LEASH SUSPENDED"),
        (until_us, f"LEASH SUSPENDED until_ms={-(-until_us // 1000)}"),
        (-1, "LEASH SUSPENDED"),
        (-2, "LEASH SUSPENDED"),
        (-1 - until_us, "LEASH SUSPENDED"),
    ):
        write_suspended(leash, "one", number)
        assert leash.call("one", token, "GET", "doc:1") == end
        assert leash.batch("one", token, "each", ("GET", "doc:1")) == end
        assert suspended(leash, "one") == number


def test_suspension_whose_time_is_over_is_none_and_is_forgotten(leash: Leash) -> None:
    """The call that finds it over goes through, and the next one needs no look at the clock."""
    leash.load(one=ALL)
    token = leash.issue("one").token

    write_suspended(leash, "one", now_us(leash) - 1_000)
    assert leash.call("one", token, "GET", "doc:1") is None
    assert suspended(leash, "one") == 0
    write_suspended(leash, "one", now_us(leash) - 1_000)
    assert leash.batch("one", token, "all", ("GET", "doc:1")) == [None]
    assert suspended(leash, "one") == 0


def test_suspension_until_a_time_outlasts_a_load(leash: Leash) -> None:
    """A new policy does not end a suspension early."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    until_us = now_us(leash) + 3_600_000_000
    write_suspended(leash, "one", until_us)

    leash.load(one={**ALL, "budget": {"requests": "5/day"}})

    assert suspended(leash, "one") == until_us
    with pytest.raises(keyleash.SuspendedError) as refusal:
        agent.get("doc:1")
    assert refusal.value.details == {"until_ms": str(-(-until_us // 1000))}


def test_freeze_names_its_reason_and_its_end_to_every_caller(leash: Leash) -> None:
    """The denial gives the reason, and the freeze ends by the server's clock."""
    leash.load(one=ALL, two=ALL)
    first, second = leash.agent("one"), leash.agent("two")

    result = freeze(
        replace(leash.store, actor="oncall"), "one", reason="incident 4107: Ärger", duration="30m"
    )

    (frozen,) = result.identities
    assert frozen.until_ms == -(-result.effective_us // 1000) + 1_800_000
    for command in (("GET", "doc:1"), ("SET", "doc:1", "x")):
        with pytest.raises(keyleash.SuspendedError) as refusal:
            first.execute_command(*command)
        assert refusal.value.reason == "incident 4107: Ärger"
        assert refusal.value.until_ms == frozen.until_ms
    assert second.get("doc:1") is None
    write_suspended(leash, "one", now_us(leash) - 1_000)
    assert first.get("doc:1") is None
    assert {denial["reason"] for denial in leash.denials("one")} == {"incident 4107: Ärger"}


def test_freeze_without_names_stops_everybody_and_thaw_lets_them_act(leash: Leash) -> None:
    """One script for all; one event says who, why, until when and by whom."""
    leash.load(one=ALL, two=ALL)
    agents = [leash.agent("one"), leash.agent("two")]

    result = freeze(replace(leash.store, actor="oncall"), reason="everything")
    for agent in agents:
        with pytest.raises(keyleash.SuspendedError):
            agent.get("doc:1")
    assert [(identity.identity, identity.changed) for identity in result.identities] == [
        ("one", True),
        ("two", True),
    ]
    thawed = thaw(replace(leash.store, actor="lead"))
    assert [agent.get("doc:1") for agent in agents] == [None, None]
    assert [identity.changed for identity in thawed.identities] == [True, True]
    assert [identity.changed for identity in thaw(leash.store).identities] == [False, False]

    events = list(read_control(leash.store))[-2:]
    assert [(event.event, event.actor, sorted(event.identities)) for event in events] == [
        ("freeze", "oncall", ["one", "two"]),
        ("thaw", "lead", ["one", "two"]),
    ]
    assert [event.id for event in events] == [result.event, thawed.event]
    assert events[0].details["reason"] == "everything"
    assert leash.admin.exists(NAMES.suspension("one"), NAMES.suspension("two")) == 0


def test_freeze_never_ends_another_one_sooner(leash: Leash) -> None:
    """A freeze of all for half an hour does not shorten an earlier one without an end."""
    leash.load(one=ALL, two=ALL)
    freeze(leash.store, "one", reason="for good")

    result = freeze(leash.store, reason="for a while", duration="30m")
    first, second = result.identities
    assert (first.changed, first.until_ms, first.reason) == (False, None, "for good")
    assert (second.changed, second.reason) == (True, "for a while")
    shorter = freeze(leash.store, "two", reason="shorter", duration="60s").identities[0]
    assert (shorter.changed, shorter.until_ms) == (False, second.until_ms)
    longer = freeze(leash.store, "two", reason="longer", duration="1h").identities[0]
    assert (longer.changed, longer.reason) == (True, "longer")
    assert freeze(leash.store, "two", reason="now for good").identities[0].until_ms is None
    assert suspended(leash, "one") == suspended(leash, "two") == 1


@pytest.mark.parametrize("do", [lambda *some: freeze(*some, reason="x"), thaw])
def test_freeze_or_thaw_with_a_wrong_name_changes_nobody(leash: Leash, do: Any) -> None:
    """It changes all named identities or none, so a typing error cannot look like success."""
    leash.load(one=ALL, two=ALL)
    freeze(leash.store, "two", reason="before")

    with raises_code("unknown-identity", match="`missing`"):
        do(leash.store, "one", "two", "missing")
    assert (suspended(leash, "one"), suspended(leash, "two")) == (0, 1)


@pytest.mark.parametrize("duration", [None, "1h"])
def test_suspension_outlasts_the_state_that_a_load_makes_anew(
    leash: Leash, duration: str | None
) -> None:
    """A suspended identity does not resume because its state was lost."""
    leash.load(one=ALL, two=ALL)
    agent = leash.agent("one")
    result = freeze(leash.store, "one", reason="why", duration=duration)
    until_ms = result.identities[0].until_ms
    leash.admin.delete(NAMES.state("one"), NAMES.state("two"))

    leash.load(one=ALL, two=ALL)

    with pytest.raises(keyleash.SuspendedError) as refusal:
        agent.get("doc:1")
    assert (refusal.value.reason, refusal.value.until_ms) == ("why", until_ms)
    assert suspended(leash, "two") == 0


def test_suspension_that_is_over_does_not_come_back_with_a_new_state(leash: Leash) -> None:
    """Its record stays until the next one, and says nothing any more."""
    leash.load(one=ALL)
    freeze(leash.store, reason="why", duration="1h")
    leash.admin.hset(NAMES.suspension("one"), "until_ms", now_us(leash) // 1000 - 1)
    leash.admin.delete(NAMES.state("one"))

    leash.load(one=ALL)

    assert suspended(leash, "one") == 0
    assert leash.call("one", leash.issue("one").token, "GET", "doc:1") is None


def test_reason_is_as_long_as_a_refusal_can_say(leash: Leash) -> None:
    """A longer reason is an error, and the longest one is reported whole."""
    leash.load(one=ALL)
    agent = leash.agent("one")

    with pytest.raises(ValueError, match="128 bytes"):
        freeze(leash.store, reason="ä" * 65)
    freeze(leash.store, reason="ä" * 64)
    with pytest.raises(keyleash.SuspendedError) as refusal:
        agent.get("doc:1")
    assert refusal.value.reason == "ä" * 64


def test_suspension_is_a_matter_of_valid_tokens(leash: Leash) -> None:
    """A token that the server does not know, or that was revoked, learns no reason."""
    leash.load(one=ALL)
    live, revoked = leash.issue("one").token, leash.issue("one")
    revoke(leash.store, token_id=revoked.id)
    freeze(leash.store, "one", reason="incident 42")

    answers = [
        leash.call("one", token, "GET", "doc:1")
        for token in (f"kl_one_{'x' * 32}", revoked.token, live)
    ]

    assert answers[:2] == ["LEASH TOKEN_UNKNOWN", "LEASH TOKEN_REVOKED"]
    assert answers[2].startswith("LEASH SUSPENDED reason=incident")
