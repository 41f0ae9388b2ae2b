"""The trail: every mutation, before it happens; refusals apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import redis

import keyleash
from keyleash.audit.read import read_events
from support.clustered import NODES
from support.leash import NAMES, Leash, grant
from support.streams import command_of

ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}


def test_mutation_leaves_an_event_that_says_who_what_where_and_why(leash: Leash) -> None:
    """Token, operation, key, correlation id and policy; the stream's id is the time."""
    leash.load(one=ALL)
    issued = leash.issue("one")
    agent = leash.client(issued.token)

    with keyleash.correlation("req-42"):
        agent.set("doc:1", "x")
    (event,) = leash.events("one")
    # Readers skip events of other commands without parsing them, by this order.
    assert [*event] == ["seq", "token", "policy", "correlation", "SET"]
    policy, charged = event.pop("policy").split(" ")
    assert event == {"seq": "1", "token": issued.id, "correlation": "req-42", "SET": "doc:1"}
    assert charged == "1,1w"
    assert leash.admin.hget(NAMES.guard("one"), "policy_digest").startswith(policy.encode())


def test_read_leaves_no_event(leash: Leash) -> None:
    """Nor do commands without a key."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    agent.get("doc:1")
    agent.exists("doc:1")
    agent.ping()

    assert leash.events("one") == []


def test_call_with_several_keys_is_one_event_that_lists_them(leash: Leash) -> None:
    """As netstrings, so that any byte may stand in a key."""
    leash.load(one=ALL)
    leash.agent("one").mset({"doc:{d}1": "x", "doc:{d},2:": "y"})

    (event,) = leash.events("one")
    assert command_of(event) == ("MSET:2", "8:doc:{d}1,10:doc:{d},2:,")


def test_call_that_lacks_its_second_key_names_its_first(leash: Leash) -> None:
    """The event names the key of a call that failed, alone and in a batch."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.call("one", token, "RENAME", "doc:1")
    leash.batch("one", token, "each", ("RENAME", "doc:1"))

    single, corrected, batch, _ = leash.events("one")
    assert single["RENAME"] == batch["RENAME"] == "doc:1"
    assert corrected["error"].startswith("ERR wrong number of arguments")


def test_command_that_fails_is_corrected_in_the_trail(leash: Leash) -> None:
    """The event came first; a second one says that it did not come about."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    agent.set("doc:{kl}1", "text")
    with pytest.raises(redis.ResponseError):
        agent.lpush("doc:{kl}1", "x")
    with pytest.raises(redis.ResponseError):
        agent.execute_command("SET")

    stream = leash.admin.xrange(leash.audit_name("one"))
    ids = [event_id.decode() for event_id, _ in stream]
    events = leash.events("one")
    assert [command_of(events[at]) for at in (0, 1, 3)] == [
        ("SET", "doc:{kl}1"),
        ("LPUSH", "doc:{kl}1"),
        ("SET", ""),
    ]
    assert events[2] == {
        "of": ids[1],
        "error": "WRONGTYPE Operation against a key holding the wrong kind of value",
    }
    assert events[4]["of"] == ids[3]


def test_commands_of_a_batch_that_fail_are_corrected_by_one_entry(leash: Leash) -> None:
    """Each with its place among the commands that the event lists, which leaves reads out."""
    leash.load(one=ALL)
    leash.agent("one").set("doc:{d}1", "text")
    token = leash.issue("one").token
    leash.batch(
        "one",
        token,
        "each",
        ("LPUSH", "doc:{d}1", "x"),
        ("GET", "doc:{d}1"),
        ("SET", "{d}other", "x"),
        ("SET", "doc:{d}2", "x"),
        ("SADD", "doc:{d}1", "x"),
    )

    assert len(leash.events("one")) == 3
    _, first, second, third = read_events(leash.store, ["one"])
    assert [event.error is not None for event in (first, second, third)] == [True, False, True]
    assert [event.item for event in (first, second, third)] == [1, 2, 3]


def test_event_stands_even_if_the_command_is_the_last_thing_that_happens(leash: Leash) -> None:
    """The event is appended before the command runs, which its place in MONITOR shows."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    agent.get("doc:1")
    with leash.at("doc:1").monitor() as monitor:
        agent.set("doc:1", "x")
        seen: list[str] = []
        while not seen or seen[-1] != "SET":
            entry = monitor.next_command()
            # Whether it trims is the clock's.
            if entry["client_type"] == "lua" and not entry["command"].startswith("XTRIM"):
                seen.append(entry["command"].split()[0])
    # A shard notes the number of the event in its state, in between.
    assert seen[-3 if NODES else -2 :] == ["XADD", *["SETRANGE"] * bool(NODES), "SET"]


def test_refusal_goes_to_its_own_stream_with_its_code(leash: Leash) -> None:
    """And leaves no event among the mutations."""
    leash.load(one=ALL)
    issued = leash.issue("one")
    agent = leash.client(issued.token)
    with keyleash.correlation("req-1"), pytest.raises(keyleash.KeyNotGrantedError):
        agent.set("other", "x")
    leash.call("one", "kl_one_wrong", "GET", "doc:1")

    named, unnamed = leash.denials("one")
    assert named | {"policy": ""} == {
        "seq": "1",
        "token": issued.id,
        "code": "KEY_NOT_GRANTED",
        "reason": "",
        "op": "SET",
        "key": "other",
        "correlation": "req-1",
        "policy": "",
    }
    assert (unnamed["token"], unnamed["code"]) == ("-", "TOKEN_UNKNOWN")
    assert leash.events("one") == []


def storm(leash: Leash, token: str, commands: Iterable[str]) -> None:
    digest = leash.digest("one")
    with leash.admin.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.evalsha(digest, 0, token, "c", command)
        pipe.execute(raise_on_error=False)


@pytest.mark.slow
def test_storm_of_like_refusals_is_one_entry_with_their_number(leash: Leash) -> None:
    """100,000 of them push out no mutation and hardly fill their own stream."""
    leash.load(one=ALL)
    issued = leash.issue("one")
    leash.client(issued.token).set("doc:1", "x")

    for _ in range(20):
        storm(leash, issued.token, ["NOSUCH"] * 5000)

    assert len(leash.events("one")) == 1
    assert leash.refusals("one") == 100_000
    # The storm may have gone over the end of a minute or two.
    assert leash.admin.xlen(NAMES.denied("one")) <= 5


def test_old_events_go_when_the_policy_says_so(leash: Leash) -> None:
    """`retain` bounds the trail; the bound is approximate, as trimming whole nodes is cheap."""
    leash.load(one={**ALL, "audit": {"retain": 200}})
    agent = leash.agent("one")
    for _ in range(1500):
        agent.set("doc:1", "x")

    assert 200 <= leash.admin.xlen(leash.audit_name("one")) < 1200


@pytest.mark.parametrize("length", [256, 257, 1_000_000])
def test_long_correlation_id_is_cut(leash: Leash, length: int) -> None:
    """The trail is not the agent's to fill."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    with keyleash.correlation("c" * length):
        agent.set("doc:1", "x")

    assert leash.events("one")[0]["correlation"] == "c" * 256


def test_huge_refused_key_and_command_are_cut(leash: Leash) -> None:
    """A refused call must cost the server little."""
    leash.load(one=ALL)
    issued = leash.issue("one")
    leash.call("one", issued.token, "GET", "k" * 524_288)
    leash.call("one", issued.token, "X" * 524_288)

    by_key, by_command = leash.denials("one")
    assert by_key["key"] == "k" * 256
    assert by_command["op"] == "X" * 64
