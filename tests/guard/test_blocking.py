"""Blocking commands answer at once; an answer with nothing in it costs nothing."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.audit.read import read_events
from support.leash import Leash, grant
from support.streams import command_of

ALL: dict[str, Any] = {
    "grants": [grant("read", "write", "delete", keys="q:*")],
    "budget": {"requests": "3/month"},
}

WAITING = [
    ("BLPOP", "q:{d}1", "q:{d}2", "0"),
    ("BRPOP", "q:{d}1", "0"),
    ("BLMPOP", "0", "2", "q:{d}1", "q:{d}2", "LEFT"),
    ("BLMOVE", "q:{d}1", "q:{d}9", "LEFT", "RIGHT", "0"),
    ("BRPOPLPUSH", "q:{d}1", "q:{d}9", "0"),
]
SORTED = [
    ("BZPOPMIN", "q:{d}1", "0"),
    ("BZPOPMAX", "q:{d}2", "q:{d}1", "0"),
    ("BZMPOP", "0", "1", "q:{d}1", "MIN"),
]


def calls(leash: Leash, token: str, *command: str, times: int) -> list[Any]:
    return [leash.call("one", token, *command) for _ in range(times)]


@pytest.mark.parametrize("command", WAITING + SORTED, ids=lambda command: command[0])
def test_poll_that_finds_nothing_is_neither_counted_nor_audited(
    leash: Leash, command: tuple[str, ...]
) -> None:
    """A waiting agent may ask as often as it likes."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    before = leash.spent("one")

    assert calls(leash, token, *command, times=10) == [None] * 10
    assert leash.spent("one") == before
    assert leash.events("one") == []


@pytest.mark.parametrize("command", WAITING, ids=lambda command: command[0])
def test_poll_that_finds_something_is_counted_and_audited(
    leash: Leash, command: tuple[str, ...]
) -> None:
    """It is a call like any other then, and the fourth of them is over the budget."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.admin.rpush("q:{d}1", *range(9))

    answers = calls(leash, token, *command, times=4)

    assert None not in answers[:3]
    assert "BUDGET_EXHAUSTED" in answers[3]
    assert [event.op for event in read_events(leash.store, ["one"])] == [command[0]] * 3


@pytest.mark.parametrize("command", SORTED, ids=lambda command: command[0])
def test_poll_of_a_sorted_set_is_counted_likewise(leash: Leash, command: tuple[str, ...]) -> None:
    """Whatever the type of the key."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.admin.zadd("q:{d}1", dict.fromkeys("abcdef", 1))

    assert "BUDGET_EXHAUSTED" in calls(leash, token, *command, times=4)[3]
    assert len(leash.events("one")) == 3


def test_poll_of_a_key_of_another_type_fails_as_without_a_guard(leash: Leash) -> None:
    """The key exists, so the call is counted, audited, and returns its error."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.admin.set("q:{d}2", "text")

    assert "WRONGTYPE" in leash.call("one", token, "BLPOP", "q:{d}1", "q:{d}2", "0")
    assert len(leash.events("one")) == 2


def test_xread_that_blocks_is_counted_only_if_it_reads(leash: Leash) -> None:
    """Without BLOCK an empty answer is a call like any other."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    blocking = ("XREAD", "COUNT", "1", "BLOCK", "0", "STREAMS", "q:s", "0")

    assert calls(leash, token, *blocking, times=5) == [None] * 5
    assert calls(leash, token, "XREAD", "STREAMS", "q:s", "0", times=2) == [None] * 2
    leash.admin.xadd("q:s", {"f": "v"})
    first, second = calls(leash, token, *blocking, times=2)
    assert first[0][0] == b"q:s"
    assert "BUDGET_EXHAUSTED" in second


def group_read(consumer: str, last: str = ">", stream: str = "q:s") -> tuple[str, ...]:
    return ("XREADGROUP", "GROUP", "g", consumer, "BLOCK", "0", "STREAMS", stream, last)


def test_xreadgroup_that_blocks_is_counted_only_if_something_comes_of_it(leash: Leash) -> None:
    """Making the consumer is something; so is an entry, until it is delivered."""
    leash.load(one={**ALL, "budget": {"requests": "99/month"}})
    token = leash.issue("one").token
    leash.admin.xgroup_create("q:s", "g", mkstream=True)

    assert calls(leash, token, *group_read("c"), times=4) == [None] * 4
    assert len(leash.events("one")) == 1
    entry = leash.admin.xadd("q:s", {"f": "v"})
    answers = calls(leash, token, *group_read("c"), times=4)
    assert answers == [[[b"q:s", [[entry, [b"f", b"v"]]]]], None, None, None]
    assert len(leash.events("one")) == 2


def test_xreadgroup_of_what_was_deleted_since_finds_nothing(leash: Leash) -> None:
    """The stream's last id is past the group's, and yet there is no entry."""
    leash.load(one={**ALL, "budget": {"requests": "99/month"}})
    token = leash.issue("one").token
    leash.admin.xgroup_create("q:s", "g", mkstream=True)
    leash.admin.xgroup_createconsumer("q:s", "g", "c")
    leash.admin.xdel("q:s", leash.admin.xadd("q:s", {"f": "v"}))

    assert calls(leash, token, *group_read("c"), times=3) == [None] * 3
    assert leash.events("one") == []


def test_xreadgroup_that_claims_is_counted_if_there_is_something_to_claim(leash: Leash) -> None:
    """CLAIM takes what others have, with no new entry; a server that lacks it says so then."""
    leash.load(one={**ALL, "budget": {"requests": "99/month"}})
    token = leash.issue("one").token
    leash.admin.xgroup_create("q:s", "g", mkstream=True)
    leash.admin.xgroup_createconsumer("q:s", "g", "c")
    claiming = ("XREADGROUP", "GROUP", "g", "c", "CLAIM", "0", "BLOCK", "0", "STREAMS", "q:s", ">")

    leash.call("one", token, *claiming)
    assert leash.events("one") == []
    leash.admin.xadd("q:s", {"f": "v"})
    leash.admin.xreadgroup("g", "other", {"q:s": ">"})
    leash.call("one", token, *claiming)
    assert command_of(leash.events("one")[0])[0] == "XREADGROUP"


def test_xreadgroup_of_a_group_at_the_last_id_there_can_be_finds_nothing(leash: Leash) -> None:
    """No range begins behind that id, but to ask for what follows it is no error."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.admin.xgroup_create("q:s", "g", id=f"{2**64 - 1}-{2**64 - 1}", mkstream=True)
    leash.admin.xgroup_createconsumer("q:s", "g", "c")

    assert calls(leash, token, *group_read("c"), times=5) == [None] * 5
    assert leash.events("one") == []


def test_xreadgroup_of_its_history_never_waits(leash: Leash) -> None:
    """An id asks for what was delivered before, and gets an answer, if an empty one."""
    leash.load(one={**ALL, "budget": {"requests": "2/month"}})
    token = leash.issue("one").token
    leash.admin.xgroup_create("q:s", "g", mkstream=True)

    answers = calls(leash, token, *group_read("c", "0"), times=3)
    assert answers[:2] == [[[b"q:s", []]]] * 2
    assert "BUDGET_EXHAUSTED" in answers[2]


def test_xreadgroup_without_its_group_fails_as_without_a_guard(leash: Leash) -> None:
    """The error is the server's own, and a call."""
    leash.load(one=ALL)
    token = leash.issue("one").token

    for stream in ("q:none", "q:s"):
        assert "NOGROUP" in leash.call("one", token, *group_read("c", stream=stream))


def test_poll_is_refused_before_it_is_asked_whether_it_would_find_something(leash: Leash) -> None:
    """A key that is not granted, or a limit that is spent, refuses a poll as any call."""
    leash.load(one=ALL)
    token = leash.issue("one").token

    assert "KEY_NOT_GRANTED" in leash.call("one", token, "BLPOP", "q:{d}1", "{d}other", "0")
    calls(leash, token, "EXISTS", "q:{d}1", times=3)
    assert "BUDGET_EXHAUSTED" in leash.call("one", token, "BLPOP", "q:{d}1", "0")
