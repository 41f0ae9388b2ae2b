"""Blocking commands: a guard answers at once, and the client asks again until time is up."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import redis

import keyleash
from client.alike import EITHER, ONE_EITHER, FakeClock, agent
from keyleash.client.blocking import MAX_PAUSE_S, timeout_of
from keyleash.client.command_words import Role, role_of
from keyleash.commands import load_table
from support.leash import Leash, grant

Call = Callable[[Any, float], Any]

CALLS: dict[str, tuple[Call, tuple[Any, ...]]] = {
    "blpop": (lambda r, s: r.blpop(["t:none", "t:list"], s), ("RPUSH", "t:list", "x")),
    "brpop": (lambda r, s: r.brpop("t:list", s), ("RPUSH", "t:list", "x")),
    "blmove": (lambda r, s: r.blmove("t:list", "t:to", s), ("RPUSH", "t:list", "x")),
    "brpoplpush": (lambda r, s: r.brpoplpush("t:list", "t:to", s), ("RPUSH", "t:list", "x")),
    "blmpop": (
        lambda r, s: r.blmpop(s, 2, "t:none", "t:list", direction="LEFT"),
        ("RPUSH", "t:list", "x"),
    ),
    "bzpopmin": (lambda r, s: r.bzpopmin("t:z", s), ("ZADD", "t:z", 1, "a")),
    "bzpopmax": (lambda r, s: r.bzpopmax(["t:none", "t:z"], s), ("ZADD", "t:z", 1, "a")),
    "bzmpop": (lambda r, s: r.bzmpop(s, 1, ["t:z"], max=True), ("ZADD", "t:z", 1, "a")),
    "xread": (
        lambda r, s: r.xread({"t:s": "0"}, block=int(s * 1000)),
        ("XADD", "t:s", "1-1", "f", "v"),
    ),
    "xreadgroup": (
        lambda r, s: r.xreadgroup("g", "c", {"t:group": ">"}, block=int(s * 1000)),
        ("XADD", "t:group", "1-1", "f", "v"),
    ),
}

PARSERS = [
    pytest.param(
        {"protocol": protocol, "decode_responses": decode, "legacy_responses": legacy},
        # The others have each value of each, and the shapes of both protocols.
        marks=pytest.mark.slow if decode is legacy or (protocol, decode) == (2, False) else (),
    )
    for protocol, decode, legacy in itertools.product((2, 3), (False, True), (True, False))
]


def seeded(leash: Leash) -> Leash:
    leash.admin.xgroup_create("t:group", "g", mkstream=True)
    return leash


def test_every_command_that_waits_is_polled() -> None:
    """The table knows them; a new one must not come back at once."""
    waiting = {spec.name for spec in load_table() if spec.waits is not None}

    assert {spec.name for spec in load_table() if role_of(spec.name) is Role.BLOCKING} == waiting


@ONE_EITHER
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("options", PARSERS, ids=str)
def test_call_whose_time_runs_out_gives_what_a_raw_one_gives(
    one_leash: Leash, name: str, options: dict[str, Any]
) -> None:
    """None, [] or {}, as redis-py makes of it; after exactly that time."""
    client = agent(seeded(one_leash), **options)
    raw = one_leash.server.client(**options)
    call, _ = CALLS[name]
    clock = FakeClock(client)

    assert call(client, 1.5) == call(raw, 0.01)
    assert clock.passed == pytest.approx(1.5)


@EITHER
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("timeout_s", [0, 5])
def test_call_returns_when_there_is_something(leash: Leash, name: str, timeout_s: int) -> None:
    """Also without an end, which is what a timeout of 0 means."""
    client = agent(seeded(leash))
    call, command = CALLS[name]
    clock = FakeClock(client)
    clock.at[2.0] = lambda: leash.admin.execute_command(*command)

    got = call(client, timeout_s)
    assert got
    assert 2 <= clock.passed <= 2 + 2 * MAX_PAUSE_S


@ONE_EITHER
def test_pauses_double_up_to_a_bound_and_end_at_the_deadline(one_leash: Leash) -> None:
    """Quick at first, seldom later, each a little off, and never past the end."""
    client = agent(one_leash)
    clock = FakeClock(client)
    assert client.blpop("t:list", 1) is None

    for number, pause_s in enumerate(clock.slept[:-1]):
        middle = min(0.001 * 2**number, MAX_PAUSE_S)
        assert 0.9 * middle <= pause_s <= 1.1 * middle
    assert len(set(clock.slept)) > 5
    assert sum(clock.slept) == pytest.approx(1)


@ONE_EITHER
def test_pauses_grow_with_the_keys_of_a_call(one_leash: Leash) -> None:
    """A poll of 5,000 keys takes 5 ms of the server, which is to be a small part of the time."""
    client = agent(one_leash)
    clock = FakeClock(client)
    assert client.blpop([f"t:{number}" for number in range(5000)], 1) is None

    assert all(0.09 <= pause_s <= 0.11 * 1.1 for pause_s in clock.slept[:-1])


@ONE_EITHER
def test_element_that_comes_at_the_deadline_is_still_returned(one_leash: Leash) -> None:
    """There is a last look when time is up."""
    client = agent(one_leash)
    clock = FakeClock(client)
    clock.at[0.9999999] = lambda: one_leash.admin.rpush("t:list", "x")

    assert client.blpop("t:list", 1) == (b"t:list", b"x") or client.llen("t:list") == 0
    assert clock.passed == pytest.approx(1)


@EITHER
def test_call_that_finds_something_at_once_does_not_sleep(leash: Leash) -> None:
    """One call, one answer."""
    client = agent(leash)
    clock = FakeClock(client)
    leash.admin.rpush("t:list", "x", "y")

    assert client.blpop("t:list", 0)[1] == b"x"
    assert client.execute_command("brpop t:list 0")[1] == b"y"
    assert clock.slept == []


@EITHER
def test_polls_that_find_nothing_take_nothing_from_a_limit(leash: Leash) -> None:
    """And leave nothing in the trail."""
    leash.load(
        one={
            "grants": [grant("read", "write", "delete", keys="t:*")],
            "budget": {"requests": "2/day"},
        }
    )
    client = agent(leash)
    clock = FakeClock(client)

    assert client.blpop("t:list", 2) is None
    assert len(clock.slept) > 10
    assert leash.events("one") == []
    leash.admin.rpush("t:list", "x", "y", "z")
    for _ in range(2):
        assert client.blpop("t:list", 1)
    with pytest.raises(keyleash.BudgetExhaustedError):
        client.blpop("t:list", 1)


@EITHER
@pytest.mark.parametrize(
    "command",
    [
        ("BLPOP", "t:list", -1),
        ("BLPOP", "t:list", "soon"),
        ("BLPOP", "t:list", "nan"),
        ("BLPOP", "t:list", "inf"),
        ("BLPOP", "t:list", 10**400),
        ("BLPOP", "t:list"),
        ("BLPOP",),
        ("BLMPOP", "never", 1, "t:list", "LEFT"),
        ("BLMPOP",),
        ("XREAD", "BLOCK", "x", "STREAMS", "t:s", "0"),
        ("XREAD", "BLOCK", -1, "STREAMS", "t:s", "0"),
        ("XREAD", "BLOCK", 10**400, "STREAMS", "t:s", "0"),
        ("XREAD", "BLOCK"),
        ("XREAD", "BLOCK", 10, "STREAMS", "t:s", "$", "t:none"),
        ("BLPOP", "t:string", 1),
    ],
    ids=lambda words: " ".join(map(str, words))[:40],
)
def test_call_that_is_wrong_is_the_servers_error_and_made_once(
    leash: Leash, packets: list[bytes], command: tuple[Any, ...]
) -> None:
    """The client has no opinion on timeouts."""
    client = agent(leash)
    clock = FakeClock(client)
    leash.admin.set("t:string", "x")
    client.ping()
    packets.clear()

    with pytest.raises(redis.ResponseError):
        client.execute_command(*command)
    assert clock.slept == []
    assert len([packet for packet in packets if b"EVALSHA" in packet]) <= 1


@EITHER
def test_refused_blocking_call_is_refused_at_once(leash: Leash) -> None:
    """A key that is not granted does not become so by waiting."""
    client = agent(leash)
    clock = FakeClock(client)

    with pytest.raises(keyleash.KeyNotGrantedError):
        client.blpop("u:list", 0)
    assert clock.slept == []


@EITHER
def test_last_id_of_a_stream_is_that_of_the_first_poll(leash: Leash) -> None:
    """`$` means entries newer than the call, and each poll would move it."""
    client = agent(leash, decode_responses=True)
    leash.admin.xadd("t:s", {"f": "old"}, id="5-1")
    clock = FakeClock(client)

    def add() -> None:
        leash.admin.xadd("t:s", {"f": "new"}, id="5-2")
        leash.admin.xadd("t:other", {"f": "new"}, id="1-1")

    clock.at[0.5] = add
    got = client.xread({"t:s": "$", "t:other": "$", "t:none": "0"}, block=0)
    assert got == [["t:s", [("5-2", {"f": "new"})]], ["t:other", [("1-1", {"f": "new"})]]]
    assert client.xread({"t:s": "$"}, block=20) == []


@EITHER
def test_stream_and_group_named_like_options_are_not_taken_for_them(leash: Leash) -> None:
    """The timeout is the option's, not a name's."""
    assert timeout_of(("XREADGROUP", "GROUP", "BLOCK", "5", "STREAMS", "t:s", ">")) is None
    assert timeout_of(("XREAD", "STREAMS", "BLOCK", "0")) is None
    assert timeout_of(("xread", "count", "1", b"block", b"1500", "STREAMS", "t:s", "0")) == 1.5
    assert timeout_of((b"BLPOP", "t:a", b"0.5")) == 0.5
    client = agent(seeded(leash))
    clock = FakeClock(client)
    assert client.xreadgroup("g", "BLOCK", {"t:group": ">"}) == []
    assert clock.slept == []


@EITHER
def test_callback_sees_no_poll_but_the_answer(leash: Leash) -> None:
    """One that cannot read a null is not asked to while the call waits."""
    client = agent(leash)
    client.set_response_callback("BLPOP", lambda response, **_: response[1])
    clock = FakeClock(client)
    clock.at[0.5] = lambda: leash.admin.rpush("t:list", "x")

    assert client.blpop("t:list", 0) == b"x"
    with pytest.raises(TypeError):
        client.blpop("t:list", 0.01)


@EITHER
def test_policy_that_changes_while_a_call_waits_is_followed(leash: Leash) -> None:
    """Each poll is a call, judged by what is in force then."""
    client = agent(leash)
    clock = FakeClock(client)
    clock.at[0.5] = lambda: leash.load(one={"grants": [grant("read", keys="v:*")]})

    with pytest.raises(keyleash.LeashError):
        client.blpop("t:list", 0)
    assert 0.5 <= clock.passed < 1
