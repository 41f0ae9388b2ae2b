"""SCAN, channels, sub-commands, and keys that must be looked for in the arguments."""

from __future__ import annotations

from typing import Any

import pytest

import keyleash
from support.leash import Leash, grant
from support.streams import command_of

READER: dict[str, Any] = {"grants": [grant("read", keys="in:*"), grant("write", keys="out:*")]}


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        (("ZUNION", "2", "in:{d}1", "in:{d}2"), True),
        (("ZUNION", "2", "in:{d}1", "out:{d}2"), False),
        (("ZUNION", "1", "in:{d}1", "out:{d}2"), True),  # a syntax error, and no key
        (("ZINTERCARD", "2", "in:{d}1", "in:{d}2", "LIMIT", "1"), True),
        (("ZUNIONSTORE", "out:{d}1", "2", "in:{d}1", "in:{d}2"), True),
        (("ZUNIONSTORE", "in:{d}1", "1", "in:{d}2"), False),
        (("ZUNIONSTORE", "out:{d}1", "2", "in:{d}1", "out:{d}2"), False),
        (("SORT", "in:{d}1"), True),
        (("SORT", "in:{d}1", "ALPHA", "store", "out:{d}1"), True),
        (("SORT", "in:{d}1", "STORE", "out:{d}1", "STORE", "in:{d}1"), False),
        (("SORT", "in:{d}1", "by", "nosort", "STORE", "out:{d}1"), True),
        (("SORT", "in:{d}1", "BY", "nosort", "STORE", "in:{d}1"), False),
        (("GEORADIUS", "in:{d}1", "0", "0", "1", "m", "STORE", "out:{d}1"), True),
        (("GEORADIUS", "in:{d}1", "0", "0", "1", "m", "STOREDIST", "in:{d}2"), False),
        (("GEORADIUSBYMEMBER", "in:{d}1", "m", "1", "m", "ASC", "STORE", "in:{d}2"), False),
        (("XREAD", "COUNT", "1", "STREAMS", "in:{d}1", "in:{d}2", "0", "0"), True),
        (("XREAD", "STREAMS", "in:{d}1", "out:{d}2", "0", "0"), False),
        (("XGROUP", "CREATE", "out:{d}1", "g", "$", "MKSTREAM"), True),
        (("XGROUP", "create", "in:{d}1", "g", "$", "MKSTREAM"), False),
        (("XINFO", "STREAM", "in:{d}1"), True),
        (("XINFO", "Stream", "out:{d}1"), False),
        (("OBJECT", "ENCODING", "out:{d}1"), True),
        (("OBJECT", "ENCODING", "{d}other"), False),
        (("MEMORY", "USAGE", "in:{d}1"), True),
        (("MEMORY", "USAGE", "{d}other"), False),
        (("BITFIELD", "in:{d}1", "GET", "u8", "0"), True),
        (("BITFIELD", "in:{d}1", "get", "u8", "0", "OVERFLOW", "WRAP", "GET", "u8", "1"), True),
        (("BITFIELD", "in:{d}1", "GET", "u8", "0", "SET", "u8", "0", "1"), False),
    ],
)
def test_key_found_in_the_arguments_is_checked(
    leash: Leash, command: tuple[str, ...], allowed: bool
) -> None:
    """The grants are checked for the keys that the server will touch."""
    leash.load(one=READER)

    answer = leash.call("one", leash.issue("one").token, *command)

    refused = isinstance(answer, str) and answer.startswith("LEASH ")
    assert refused == (not allowed), answer
    if refused:
        assert "_NOT_GRANTED" in answer


def test_command_that_may_store_needs_only_read_if_it_does_not(leash: Leash) -> None:
    """SORT and GEORADIUS read, are not audited and count as reads, until an option stores."""
    leash.load(
        one={"grants": [grant("read", keys="in:*")], "budget": {"writes": "1/month"}},
        two={**READER, "budget": {"writes": "1/month"}},
    )
    first, second = leash.issue("one").token, leash.issue("two").token
    search = ("GEORADIUS", "in:{d}1", "0", "0", "1", "m")

    assert leash.call("one", first, "SORT", "in:{d}1") == []
    assert leash.call("one", first, *search) == []
    refusal = leash.call("one", first, "SORT", "in:{d}1", "STORE", "in:{d}2")
    assert refusal == "LEASH CLASS_NOT_GRANTED class=write command=SORT key=in:%7Bd%7D2"
    assert leash.events("one") == []
    assert [leash.call("two", second, "SORT", "in:{d}1") for _ in range(3)] == [[]] * 3
    assert leash.call("two", second, *search, "STORE", "out:{d}1") == 0
    assert "BUDGET_EXHAUSTED" in leash.call("two", second, "SORT", "in:{d}1", "STORE", "out:{d}1")
    assert [command_of(event)[0] for event in leash.events("two")] == ["GEORADIUS:2"]


def test_group_that_is_named_like_the_option_hides_no_key(leash: Leash) -> None:
    """The keys are those behind the word that the server takes for STREAMS."""
    leash.load(one={"grants": [grant("read", "write", keys=["c", "STREAMS", "in:*"])]})
    token = leash.issue("one").token
    leash.admin.xgroup_create("secret", "STREAMS", id="0", mkstream=True)
    leash.admin.xadd("secret", {"f": "v"})

    for words in (
        ("GROUP", "STREAMS", "c", "STREAMS", "secret", ">"),
        ("COUNT", "1", "GROUP", "STREAMS", "c", "STREAMS", "secret", ">"),
        ("NOACK", "GROUP", "STREAMS", "STREAMS", "STREAMS", "secret", ">"),
    ):
        answer = leash.call("one", token, "XREADGROUP", *words)
        assert answer == "LEASH KEY_NOT_GRANTED key=secret"


def test_scan_lists_only_what_is_granted_and_not_denied(leash: Leash) -> None:
    """The reply holds keys of scan grants alone, whatever else the glob finds."""
    leash.load(
        one={
            "grants": [
                grant("scan", keys=["doc:{id}:state", "out:*"]),
                grant("read", keys="doc:*"),
            ],
            "deny": [{"keys": ["out:hidden"]}],
        }
    )
    for key in ("doc:1:state", "doc:1:lock", "doc:1:2:state", "out:1", "out:hidden", "other"):
        leash.admin.set(key, "x")
    agent = leash.agent("one")

    assert list(agent.scan_iter("doc:*")) == [b"doc:1:state"]
    assert list(agent.scan_iter("out:*", count=100)) == [b"out:1"]


@pytest.mark.parametrize(
    ("glob", "allowed"),
    [
        ("doc:*", True), ("doc:1*", True), ("doc:[ab]", True), ("doc:", True), ("one", True),
        ("*", False), ("do*", False), ("d?c:*", False), ("[d]oc:*", False), ("doc", False),
        ("\\doc:*", False), ("one*", False), ("on[e]", False), ("", False),
    ],
)  # fmt: skip
def test_scan_must_lie_inside_a_granted_pattern(leash: Leash, glob: str, allowed: bool) -> None:
    """The text that the glob begins with decides."""
    leash.load(one={"grants": [grant("scan", keys=["doc:*", "one"])]})
    agent = leash.agent("one")

    if allowed:
        agent.scan(match=glob)
        return
    with pytest.raises(keyleash.KeyNotGrantedError) as refusal:
        agent.execute_command("SCAN", "0", "MATCH", "doc:*", "match", glob)
    assert refusal.value.details["key"] == glob


def test_scan_without_match_asks_for_everything(leash: Leash) -> None:
    """So only a grant on everything will do; keyleash's own keys are never listed."""
    leash.load(
        one={"grants": [grant("scan", keys="doc:*")]}, two={"grants": [grant("scan", keys="*")]}
    )
    leash.admin.set("doc:1", "x")

    with pytest.raises(keyleash.KeyNotGrantedError):
        leash.agent("one").scan()
    assert list(leash.agent("two").scan_iter(count=1000)) == [b"doc:1"]


def test_scan_without_the_class_is_refused(leash: Leash) -> None:
    """Reading keys that one knows is not listing them."""
    leash.load(one={"grants": [grant("read", "write", "delete", keys="*")]})

    with pytest.raises(keyleash.ClassNotGrantedError) as refusal:
        leash.agent("one").scan(match="doc:*")
    assert refusal.value.details["class"] == "scan"


def test_channel_is_checked_and_the_message_audited(leash: Leash) -> None:
    """Publishing is an act that others see, on channels of their own."""
    leash.load(one={"grants": [{"allow": ["publish"], "channels": ["events:{job}:*"]}]})
    agent = leash.agent("one")

    for command in ("PUBLISH", "SPUBLISH"):
        assert agent.execute_command(command, "events:1:done", "m") == 0
        with pytest.raises(keyleash.ChannelNotGrantedError) as refusal:
            agent.execute_command(command, "other", "m")
        assert refusal.value.details == {"channel": "other"}
    events = leash.events("one")
    assert [command_of(event) for event in events] == [
        ("PUBLISH", "events:1:done"),
        ("SPUBLISH", "events:1:done"),
    ]
    assert leash.denials("one")[0]["key"] == "other"


def test_subscription_is_checked_and_recorded_and_not_made(leash: Leash) -> None:
    """The caller subscribes, on a connection of its own; the reply is the channel."""
    listening = {"allow": ["subscribe"], "channels": ["events:{job}:*"]}
    leash.load(one={"grants": [listening, {"allow": ["publish"], "channels": ["out"]}]})
    token = leash.issue("one").token

    for command in ("SUBSCRIBE", "SSUBSCRIBE"):
        assert leash.call("one", token, command, "events:1:done") == b"events:1:done"
        denial = leash.call("one", token, command, "out")
        assert denial == "LEASH CHANNEL_NOT_GRANTED channel=out"
    assert leash.call("one", token, "PSUBSCRIBE", "events:1:d*") == b"events:1:d*"
    for pattern in ("events:*", "events:1*", "events:?:done", "*", "[e]vents:1:", "events\\:1:*"):
        denial = leash.call("one", token, "PSUBSCRIBE", pattern)
        assert denial.startswith("LEASH CHANNEL_NOT_GRANTED"), pattern
    denial = leash.call("one", token, "SUBSCRIBE", "events:1:a", "events:1:b")
    assert denial == "LEASH COMMAND_REFUSED command=SUBSCRIBE%20events:1:b"
    assert leash.batch("one", token, "each", ("SUBSCRIBE", "events:2:"), ("SUBSCRIBE", "out")) == [
        b"events:2:",
        "LEASH CHANNEL_NOT_GRANTED channel=out",
    ]

    assert [command_of(event) for event in leash.events("one")] == [
        ("SUBSCRIBE", "events:1:done"),
        ("SSUBSCRIBE", "events:1:done"),
        ("PSUBSCRIBE", "events:1:d*"),
        ("SUBSCRIBE", "events:2:"),
    ]
    assert leash.admin.pubsub_channels() == []


def test_grant_on_keys_gives_no_channel(leash: Leash) -> None:
    """And one on channels no key."""
    leash.load(
        one={"grants": [grant("read", "write", "delete", "scan", keys="*")]},
        two={"grants": [{"allow": ["publish"], "channels": ["*"]}]},
    )

    with pytest.raises(keyleash.ClassNotGrantedError):
        leash.agent("one").publish("doc:1", "m")
    with pytest.raises(keyleash.ClassNotGrantedError):
        leash.agent("two").get("doc:1")


def test_container_in_only_stands_for_its_sub_commands(leash: Leash) -> None:
    """`only: [XGROUP]` is what a person would write."""
    leash.load(
        one={"grants": [grant("write", "delete", keys="s:*", only=["XGROUP"])]},
        two={"grants": [grant("write", keys="s:*", **{"except": ["XGROUP"]})]},
        three={"grants": [grant("write", keys="s:*", only=["XGROUP SETID"])]},
    )
    create = ("XGROUP", "CREATE", "s:1", "g", "$", "MKSTREAM")

    assert leash.agent("one").execute_command(*create) == b"OK"
    for identity in ("two", "three"):
        with pytest.raises(keyleash.CommandRefusedError) as refusal:
            leash.agent(identity).execute_command(*create)
        assert refusal.value.details["command"].startswith("XGROUP")
