"""Blocking commands behind a gateway: the first to wait is the first to be served."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

import pytest

from gateway.conftest import BROAD
from keyleash.client import caller
from keyleash.gateway import polls
from support.gateways import Raw, ServedGateway
from support.leash import Leash
from support.replication import wait_until
from support.servers import stopped

Connect = Callable[..., Raw]


@pytest.fixture
def rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll after writes through the gateway and at deadlines alone."""
    monkeypatch.setattr(caller, "pauses", lambda _: repeat(3600.0))


def waiting(gateway: ServedGateway) -> int:
    """Return the number of blocking commands that wait for their next poll."""
    return int(gateway.call(lambda: len(gateway.gateway.upstream.polls._waits)))


def block(gateway: ServedGateway, raws: list[Raw], *words: Any) -> None:
    """Let connections wait, one after the other."""
    for raw in raws:
        expected = waiting(gateway) + 1
        raw.send(words)
        wait_until(lambda expected=expected: waiting(gateway) == expected)


@pytest.mark.parametrize(
    ("wait", "give"),
    [
        (("BLPOP", "k:a", "k:b", 0), lambda number: ("RPUSH", "k:b", number)),
        (("BLMOVE", "k:a", "k:to", "LEFT", "RIGHT", 0), lambda number: ("RPUSH", "k:a", number)),
        (("BZPOPMIN", "k:z", 0), lambda number: ("ZADD", "k:z", 1, number)),
        (
            ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "BLOCK", 0, "STREAMS", "k:s", ">"),
            lambda number: ("XADD", "k:s", "*", "n", number),
        ),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_clients_that_wait_are_served_in_the_order_in_which_they_came(
    one_leash: Leash,
    one_gateway: ServedGateway,
    connect: Connect,
    wait: tuple[Any, ...],
    give: Callable[[str], tuple[Any, ...]],
) -> None:
    """As on a server, for what an agent writes and for what the operator writes."""
    token = one_leash.issue("one").token
    one_leash.admin.xgroup_create("k:s", "g", mkstream=True)
    clients = [connect(one_gateway.port, token, protocol) for protocol in (2, 3) * 5]
    block(one_gateway, clients, *wait)

    other = connect(one_gateway.port, token)
    for number, client in enumerate(clients):
        words = give(f"item-{number}")
        one_leash.admin.execute_command(*words) if number % 2 else other.call(*words)
        assert b"item-%d\r\n" % number in client.reply()
    wait_until(lambda: not waiting(one_gateway))
    assert not one_gateway.call(lambda: one_gateway.gateway.upstream.polls._lines)


def test_client_that_leaves_gives_its_place_to_the_next(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, rare: None
) -> None:
    """By a closed connection, or its timeout, at which it takes nothing from those before it."""
    token = one_leash.issue("one").token
    leaving, timed, last = (connect(one_gateway.port, token) for _ in range(3))
    block(one_gateway, [leaving], "BLPOP", "k:a", 0)
    block(one_gateway, [timed], "BLPOP", "k:a", 1)
    block(one_gateway, [last], "BLPOP", "k:a", "k:b", 0)
    one_leash.admin.rpush("k:a", "x")
    assert timed.reply() == b"*-1\r\n"
    leaving.close()
    assert last.reply() == b"*2\r\n$3\r\nk:a\r\n$1\r\nx\r\n"


def test_client_that_leaves_during_its_poll_gives_its_place_to_the_next(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, rare: None
) -> None:
    """At once."""
    token, gateway = one_leash.issue("one").token, one_gateway.gateway
    leaving, last, other = (connect(one_gateway.port, token) for _ in range(3))
    block(one_gateway, [leaving, last], "BLPOP", "k:a", 0)
    with stopped(one_leash.server):
        one_gateway.call(gateway.upstream.polls.wake, [b"k:a"])
        leaving.close()
        wait_until(lambda: len(gateway.connections) == 2)
    other.call("RPUSH", "k:a", "x")
    assert last.reply() == b"*2\r\n$3\r\nk:a\r\n$1\r\nx\r\n"


@pytest.mark.parametrize("behind", [2, 1200])
def test_client_that_leaves_with_commands_queued_gives_its_place_to_the_next(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, behind: int
) -> None:
    """Also with more queued than the gateway reads."""
    token, gateway = one_leash.issue("one").token, one_gateway.gateway
    leaving, last = connect(one_gateway.port, token), connect(one_gateway.port, token)
    leaving.send(("BLPOP", "k:a", 0), *[("PING",)] * behind)
    wait_until(lambda: waiting(one_gateway) == 1)
    block(one_gateway, [last], "BLPOP", "k:a", 0)
    leaving.close()
    wait_until(lambda: len(gateway.connections) == 1)
    one_leash.admin.rpush("k:a", "x")
    assert last.reply() == b"*2\r\n$3\r\nk:a\r\n$1\r\nx\r\n"


@pytest.mark.parametrize(
    "case",
    [
        "BZPOPMIN k:a 0; BLPOP k:b 0; BRPOP k:b k:a 0; RPUSH {} x",
        "BLMOVE k:b k:a LEFT RIGHT 0; BLMPOP 0 2 k:b k:a LEFT; RPUSH {} x",
        "BZPOPMIN k:b 0; BZMPOP 0 2 k:b k:a MAX; ZADD {} 1 x",
        "{} k:b >; {} k:b k:a > >; XADD {} * f x",
    ],
)
def test_client_that_waits_for_more_keys_is_polled_for_those_of_which_it_is_the_first(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, rare: None, case: str
) -> None:
    """One that waits for another type, or moves to the key, does not come before it."""
    for key in ("k:a", "k:b") if "XADD" in case else ():
        one_leash.admin.xgroup_create(key, "g", mkstream=True)
    token, read = one_leash.issue("one").token, "XREADGROUP GROUP g STREAMS BLOCK 0 STREAMS"
    *waits, give = case.split("; ")
    *_, first, client = clients = [connect(one_gateway.port, token) for _ in waits]
    for raw, text in zip(clients, waits, strict=True):
        block(one_gateway, [raw], *text.format(read).split())
    other = connect(one_gateway.port, token)
    one_leash.admin.execute_command(*give.format("k:b").split())
    other.call(*give.format("k:a").split())
    reply = client.reply()
    assert b"k:a\r\n" in reply
    assert b"k:b\r\n" not in reply
    other.call(*give.format("k:b").split())
    assert b"$1\r\nx\r\n" in first.reply()


@pytest.mark.parametrize(
    "words",
    [
        ("BLPOP", "k:a", 0),
        ("BZMPOP", 0, 1, "k:a", "MIN"),
        ("XREAD", "BLOCK", 0, "STREAMS", "k:a", 0),
    ],
    ids=lambda words: words[0],
)
def test_key_that_gets_a_value_of_another_type_wakes_no_client(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, words: tuple[Any, ...]
) -> None:
    """As on a server: what finds such a value at once fails, and what waits goes on to wait."""
    token = one_leash.issue("one").token
    raw, other = connect(one_gateway.port, token), connect(one_gateway.port, token)
    block(one_gateway, [raw], *words)

    other.call("SET", "k:a", "x")
    assert other.call(*words).startswith(b"-WRONGTYPE")
    other.call("DEL", "k:a")
    give = {"BLPOP": ("RPUSH", "k:a", "y"), "BZMPOP": ("ZADD", "k:a", 1, "y")}
    other.call(*give.get(words[0], ("XADD", "k:a", "1-1", "f", "y")))
    assert b"$1\r\ny\r\n" in raw.reply()


def test_identities_and_groups_do_not_wait_for_each_other(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """A command of many keys, polled rarely, delays no other identity."""
    one_leash.load(one=BROAD, two=BROAD)
    one_leash.admin.xgroup_create("k:s", "g", mkstream=True)
    one_leash.admin.xgroup_create("k:s", "h", mkstream=True)
    tokens = {name: one_leash.issue(name).token for name in ("one", "two")}
    readers = [connect(one_gateway.port, tokens["one"]) for _ in range(2)]
    for reader, group in zip(readers, "gh", strict=True):
        call = ("XREADGROUP", "GROUP", group, "c", "BLOCK", 0, "STREAMS", "k:s", ">")
        block(one_gateway, [reader], *call)
    heavy, light = (connect(one_gateway.port, tokens[name]) for name in ("one", "two"))
    keys = [f"k:{number}" for number in range(3000)]
    block(one_gateway, [heavy], "BLPOP", *keys, 0)
    block(one_gateway, [light], "BLPOP", "k:0", 0)

    one_leash.admin.xadd("k:s", {"f": "v"})
    assert all(reader.reply().startswith(b"*1") for reader in readers)
    one_leash.admin.rpush("k:0", "x", "y")
    assert light.reply().startswith(b"*2")
    assert heavy.reply().startswith(b"*2")


def test_polls_of_many_keys_are_as_rare_as_they_are_dear(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """4,000 keys are 81 units, of which a token has 500 a second; short timeouts do not help."""
    token = one_leash.issue("one").token
    keys = [f"k:{number}" for number in range(4000)]
    clients = [connect(one_gateway.port, token) for _ in range(6)]
    before = one_leash.admin.info("commandstats")["cmdstat_evalsha"]["calls"]
    started = time.monotonic()
    for client in clients[:3]:
        client.send(("BLPOP", *keys, 0))
    for client in clients[3:]:
        client.send(*[("BLPOP", *keys, 0.01)] * 3)
    assert [clients[-1].reply() for _ in range(3)] == [b"*-1\r\n"] * 3
    passed_s = time.monotonic() - started

    calls = one_leash.admin.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    # One call of each client is not spaced: its first.
    assert calls <= len(clients) + 2 + passed_s * 500 / 81


def test_keys_for_which_an_identity_waits_are_bounded(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command beyond fails at once, also within WATCH; that of another identity waits."""
    monkeypatch.setattr(polls, "MAX_WAITING_KEYS", 4)
    one_leash.load(one=BROAD, two=BROAD)
    token, other = one_leash.issue("one").token, one_leash.issue("two").token
    wide, agent, stranger = (connect(one_gateway.port, of) for of in (token, token, other))
    block(one_gateway, [wide], "XREAD", "BLOCK", 0, "STREAMS", "k:a", "k:b", "k:c", 0, 0, 0)
    block(one_gateway, [stranger], "BLPOP", "k:l", 0)
    refused = b"-ERR blocking commands would wait for more than 4 keys, the most for one identity"
    one_leash.admin.rpush("k:z", "x")
    for words in (("PING",), ("WATCH", "k:x")):
        agent.call(*words)
        assert agent.call("BLPOP", "k:m", "k:z", 0) == refused + b"\r\n"
    assert agent.call("GET", "k:x") == b"$-1\r\n"
    block(one_gateway, [agent], "BLPOP", "k:m", 0)
    wide.close()
    wait_until(lambda: waiting(one_gateway) == 2)
    last = connect(one_gateway.port, token)
    block(one_gateway, [last], "BLPOP", "k:l", "k:n", "k:o", 0)
    one_leash.admin.rpush("k:m", "x")
    assert agent.reply().endswith(b"$1\r\nx\r\n")
