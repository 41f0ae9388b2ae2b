"""Replies to bad input, and the most that one agent can take from the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.conftest import BROAD
from keyleash.client.retries import is_sent
from keyleash.gateway import flow, serve, shares, upstream
from keyleash.gateway.agent import Agent
from keyleash.gateway.resp import Requests
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.token import new_token
from support.collisions import colliding_words
from support.fronts import certificate
from support.gateway_processes import SpawnedGateway, spawned_gateway
from support.gateways import Raw, ServedGateway, gateway_to, request
from support.leash import Leash
from support.replication import wait_until
from support.servers import stopped

Connect = Callable[..., Raw]
MIB = 1 << 20
KIB = 1024
IDLE = 5_000


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweep often, and answer denied logins at once."""
    monkeypatch.setattr(serve, "SWEEP_S", 0.05)
    monkeypatch.setattr(serve, "DENIED_LOGIN_S", 0.0)


@pytest.fixture
def process(one_leash: Leash, tmp_path: Path) -> Iterator[SpawnedGateway]:
    """A gateway in a process of its own."""
    with spawned_gateway(one_leash.server.url, tmp_path) as gateway:
        yield gateway


# Login.


@pytest.mark.parametrize(
    "words",
    [
        ("GET", "k:a"), ("PING",), ("MULTI",), ("EXEC",), ("WATCH", "k:a"), ("SUBSCRIBE", "c:1"),
        ("EVAL", "return 1", "0"), ("INFO",), ("COMMAND",), ("CLIENT", "LIST"), ("SELECT", "0"),
        ("CLIENT", "SETNAME", "a"), ("KEYLEASH", "ONCE", "id", "SET", "k:a", "1"), ("HELLO", "3"),
        ("BLPOP", "k:q", "0"), ("NOSUCH",), ("CONFIG", "GET", "*"), ("CLUSTER", "SLOTS"),
    ],
    ids=lambda words: " ".join(words[:2]),
)  # fmt: skip
def test_nothing_runs_before_a_token_is_given(
    words: tuple[str, ...], one_gateway: ServedGateway, connect: Connect
) -> None:
    """Every command but AUTH, HELLO, RESET and QUIT is NOAUTH."""
    assert connect(one_gateway.port).call(*words).startswith(b"-NOAUTH ")


def test_tokens_that_do_not_work_are_denied_with_the_code_alone(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, eager: None
) -> None:
    """The reply has the code, and nothing about identities."""
    one_leash.load(one=BROAD, other=BROAD, frozen=BROAD)
    revoked, good = one_leash.issue("one"), one_leash.issue("one")
    expired, frozen = one_leash.issue("one", ttl="1s"), one_leash.issue("frozen")
    revoke(one_leash.store, token_id=revoked.id)
    freeze(one_leash.store, "frozen", reason="the reason")
    time.sleep(1.1)
    cases = [
        (("AUTH", new_token("one")), b"TOKEN_UNKNOWN"),
        (("AUTH", new_token("stranger")), b""),
        (("AUTH", revoked.token), b"TOKEN_REVOKED"),
        (("AUTH", expired.token), b"TOKEN_EXPIRED"),
        (("AUTH", frozen.token), b"SUSPENDED"),
        (("AUTH", "other", good.token), b"TOKEN_UNKNOWN"),
        (("AUTH", "stranger", good.token), b"TOKEN_UNKNOWN"),
        (("AUTH", "one", "x"), b""),
        (("AUTH", "one", ""), b""),
        (("AUTH", "one", b"\xff\x00" * 40), b""),
        (("HELLO", "3", "AUTH", "other", good.token), b"TOKEN_UNKNOWN"),
        (("HELLO", "2", "AUTH", "default", revoked.token), b"TOKEN_REVOKED"),
    ]
    for words, code in cases:
        agent = connect(one_gateway.port)
        reply = agent.call(*words)
        assert reply.startswith(b"-WRONGPASS "), (words, reply)
        assert code in reply, (words, reply)
        names = (b"one", b"other", b"frozen", b"stranger", b"reason")
        assert not any(name in reply.removeprefix(b"-WRONGPASS") for name in names), reply
        assert agent.call("GET", "k:a").startswith(b"-NOAUTH ")
    for user in ("one", "default", ""):
        assert connect(one_gateway.port).call("AUTH", user, good.token) == b"+OK\r\n"


# Frames.

BROKEN = [
    b"SET k:a '1\r\n",
    b"x" * 100_000,
    b"*1\r\n*1\r\n$4\r\nPING\r\n",
    b"*1\r\n:5\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$4\r\nPINGxx",
    b"*1\r\n$99999999999999999999\r\n",
    b"*99999999999999999999\r\n",
    b"*2000000\r\n",
    b"*" + b"1" * 40,
    b"*1\r\n$" + b"1" * 40,
    b"*1\r\n$ 4\r\nPING\r\n",
    b"*1\r\n$4_0\r\nPING\r\n",
    b"*1\r\n$4\n\nPING\n\n" + bytes(40),
]


@pytest.mark.parametrize("is_known", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("frame", BROKEN, ids=lambda frame: repr(frame[:24]))
def test_a_broken_frame_is_a_protocol_error_and_closes_the_connection(
    frame: bytes, is_known: bool, one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """Before AUTH and after it, and what came before it is answered first or not at all."""
    agent = connect(one_gateway.port, one_leash.issue("one").token if is_known else None)
    with contextlib.suppress(ConnectionError):
        agent.socket.sendall(frame)
        reply = agent.reply()
        assert reply.startswith(b"-ERR Protocol error: "), reply
        assert agent.reply() == b""


@pytest.mark.parametrize(
    ("frame", "is_refused"),
    [
        (request(("HELLO", *"123456789")), False),
        (request(("HELLO", *"1234567890")), True),
        (request(("AUTH", "x" * 16_000)), False),
        (request(("AUTH", "x" * 17_000)), True),
        (b"*9\r\n" + b"$4000\r\n%b\r\n" % (b"x" * 4000) * 5, True),
        (b"*2\r\n$4\r\nAUTH\r\n$67108864\r\n", True),
    ],
    ids=["ten words", "eleven words", "16 KiB", "17 KiB", "20 KB in words", "64 MiB announced"],
)
def test_little_is_taken_before_login(
    frame: bytes, is_refused: bool, one_gateway: ServedGateway, connect: Connect, eager: None
) -> None:
    """16 KiB and ten words of a request."""
    agent = connect(one_gateway.port)
    agent.socket.sendall(frame)
    assert agent.reply().startswith(b"-ERR Protocol error: ") is is_refused


def test_a_request_of_more_than_64_mib_is_refused_at_its_header(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """Nothing of it is read."""
    agent = connect(one_gateway.port, one_leash.issue("one").token)
    agent.socket.sendall(b"*3\r\n$3\r\nSET\r\n$3\r\nk:a\r\n$80000000\r\n")
    assert agent.reply() == b"-ERR Protocol error: invalid bulk length\r\n"
    assert agent.reply() == b""


# Words.


@pytest.mark.parametrize("count", [7_000, 100_000])
def test_a_command_with_more_words_than_a_guard_takes_is_never_sent(
    count: int, leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """Strings with one hash would hold the server for many seconds before any guard runs."""
    agent = connect(gateway.port, leash.issue("one").token)
    assert agent.call("SET", "k:a", "1") == b"+OK\r\n"
    server = leash.server.label.removeprefix("embedded-")
    words = colliding_words(server, count, b"k:c:")
    leash.admin.config_resetstat()
    agent.send(("SADD", "k:s", *words), ("GET", "k:a"))
    assert agent.reply().startswith(b"-LEASH ARGS_TOO_MANY ")
    assert agent.reply() == b"$1\r\n1\r\n"
    assert leash.admin.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
    assert leash.admin.exists("k:s") == 0


def test_a_transaction_with_a_command_that_is_denied_here_does_not_run(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """As a server aborts one with a command that it could not queue."""
    agent = connect(one_gateway.port, one_leash.issue("one").token)
    for bad in (("SADD", "k:s", *range(8_000)), ("GET SET", "x"), ("KEYLEASH", "ONCE")):
        agent.send(("MULTI",), ("INCR", "k:n"), bad, ("INCR", "k:n"), ("EXEC",))
        replies = [agent.reply() for _ in range(5)]
        assert replies[2].startswith(b"-"), replies
        assert replies[4].startswith(b"-EXECABORT "), replies
        agent.send(("MULTI",), ("EXISTS", "k:n"), ("EXEC",))
        assert [agent.reply() for _ in range(3)][2] == b"*1\r\n:0\r\n"


# Agents that stand still.


def test_a_connection_without_login_is_closed_however_it_sends(
    one_gateway: ServedGateway, connect: Connect, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent, or a byte at a time, or with commands that are denied."""
    monkeypatch.setattr(flow, "LOGIN_S", 0.5)
    silent, slow, busy = (connect(one_gateway.port) for _ in range(3))
    frame = iter(request(("AUTH", "x" * 10_000)))

    def are_closed() -> bool:
        with contextlib.suppress(ConnectionError):
            slow.socket.sendall(bytes([next(frame)]))
            busy.send(("PING",))
        return not one_gateway.gateway.connections

    wait_until(are_closed)
    for agent in (silent, slow, busy):
        with contextlib.suppress(ConnectionError):
            replies = list(iter(agent.reply, b""))
            assert replies[-1] == b"-ERR the connection was not authenticated in time\r\n"


def test_a_request_that_does_not_go_on_is_cut(
    one_leash: Leash,
    one_gateway: ServedGateway,
    connect: Connect,
    eager: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An agent that is idle between requests is not."""
    monkeypatch.setattr(flow, "STALL_S", 0.3)
    token = one_leash.issue("one").token
    idle, stuck = (connect(one_gateway.port, token) for _ in range(2))
    stuck.socket.sendall(b"*3\r\n$3\r\nSET\r\n$3\r\nk:a\r\n$1000\r\nx")
    with contextlib.suppress(ConnectionError):
        assert stuck.reply() == b""
    assert one_gateway.gateway.cuts["stalled"] == 1
    assert idle.call("GET", "k:a") == b"$-1\r\n"


def test_a_reader_that_stands_is_cut(
    one_leash: Leash,
    one_gateway: ServedGateway,
    connect: Connect,
    eager: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that reads slowly is not."""
    monkeypatch.setattr(flow, "STALL_S", 3.0)
    one_leash.admin.set("k:big", bytes(MIB))
    token = one_leash.issue("one").token
    standing, slow = (connect(one_gateway.port, token) for _ in range(2))
    standing.send(*[("GET", "k:big")] * 50)
    slow.send(*[("GET", "k:big")] * 8)
    for _ in range(8):
        assert len(slow.reply()) > MIB
        time.sleep(0.3)
    (share,) = one_gateway.gateway.shares._shares.values()
    wait_until(lambda: one_gateway.gateway.cuts["stalled"] == 1)
    assert slow.call("GET", "k:none") == b"$-1\r\n"
    wait_until(lambda: share._unread == share.under_way == 0)


def test_a_subscriber_that_does_not_read_is_cut(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When many messages wait."""
    monkeypatch.setattr(flow, "MAX_UNREAD", 256 << 10)
    agent = connect(one_gateway.port, one_leash.issue("one").token)
    agent.call("SUBSCRIBE", "c:1")
    message = bytes(100_000)

    def is_cut() -> bool:
        one_leash.admin.publish("c:1", message)
        return one_gateway.gateway.cuts["unread"] == 1

    wait_until(is_cut)


# Numbers.


def test_of_too_many_connections_the_newest_of_the_largest_agent_ends(
    one_leash: Leash,
    one_gateway: ServedGateway,
    connect: Connect,
    eager: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the identity with most, the root token with most: children count for their root."""
    monkeypatch.setattr(shares, "MAX_CONNECTIONS", 8)
    one_leash.load(
        one={**BROAD, "delegate": {"depth": 1, "children": 5}, "token": {"bound": True}}, two=BROAD
    )
    small, root = one_leash.issue("one").token, one_leash.issue("one").token
    child = one_leash.client(root).delegate(ttl="1h").token
    alone = connect(one_gateway.port, small)
    agents = [connect(one_gateway.port, token) for token in (root, root, child, root, child, root)]
    agents[0].close()
    wait_until(lambda: len(one_gateway.gateway.connections) == 6)
    agents += [connect(one_gateway.port, child, 3), connect(one_gateway.port, root)]
    refused = connect(one_gateway.port)
    assert refused.call("AUTH", child) == b"-ERR max number of clients reached\r\n"
    assert refused.call("GET", "k:a").startswith(b"-NOAUTH")
    two = one_leash.issue("two").token
    others = [connect(one_gateway.port, token) for token in (two, two, two, small)]
    assert [item.call("PING") for item in (alone, *others)] == [b"+PONG\r\n"] * 5
    assert one_gateway.gateway.cuts["share"] == 4
    assert [item.reply() for item in agents[-4:]] == [b""] * 4
    assert [item.call("PING") for item in agents[1:4]] == [b"+PONG\r\n"] * 3


@pytest.mark.parametrize("used", [(shares.WINDOW, 0), (0, shares.MAX_UNREAD)])
def test_calls_wait_while_their_agent_has_its_share_and_those_of_another_go_on(
    used: tuple[int, int], one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """Of calls under way, with a wide window alone, or of unread replies."""
    one_leash.load(one={**BROAD, "idempotency": {"keep": "1h"}}, two=BROAD)
    tokens = [one_leash.issue(name).token for name in ("one", "two")]
    agent, blocked, other = (connect(one_gateway.port, tokens[at]) for at in (0, 0, 1))
    share, _ = one_gateway.gateway.shares._shares.values()
    blocked.send(("KEYLEASH", "ONCE", "id", "BLPOP", "k:q", "0"))
    wait_until(lambda: one_gateway.busy == 1)
    one_gateway.call(share.count, used[0])
    assert agent.call("SET", "k:a", "1") == other.call("SET", "k:a", "2") == b"+OK\r\n"
    one_gateway.call(share.count, 0, used[1])
    agent.send(("GET", "k:a"))
    wait_until(lambda: bool(share._waiting))
    assert other.call("SET", "k:a", "3") == b"+OK\r\n"
    one_gateway.call(share.count, -used[0], -used[1])
    assert agent.reply() == b"$1\r\n3\r\n"


def test_half_open_connections_leave_room_for_others(
    one_leash: Leash,
    one_gateway: ServedGateway,
    connect: Connect,
    eager: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are few, and not for long; agents that have logged in notice nothing."""
    monkeypatch.setattr(serve, "MAX_UNAUTHENTICATED", 20)
    token = one_leash.issue("one").token
    agent = connect(one_gateway.port, token)
    monkeypatch.setattr(flow, "LOGIN_S", 0.5)
    for _ in range(40):
        connect(one_gateway.port)
    assert agent.call("GET", "k:a") == b"$-1\r\n"
    wait_until(lambda: one_gateway.call(lambda: len(one_gateway.gateway._strangers)) <= 20)
    wait_until(lambda: len(one_gateway.gateway.connections) == 1)
    monkeypatch.setattr(flow, "LOGIN_S", 60)
    assert connect(one_gateway.port, token).call("GET", "k:a") == b"$-1\r\n"


@pytest.mark.parametrize("words", [("SET", "k:a", bytes(8 * MIB)), ("GET", "k:a")])
def test_a_transaction_that_grows_without_end_is_aborted(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, words: tuple[object, ...]
) -> None:
    """By its size, or its number of commands: they take no memory, and EXEC runs nothing."""
    agent = connect(one_gateway.port, one_leash.issue("one").token)
    agent.call("MULTI")
    count = 12 if words[0] == "SET" else 1_100
    for _ in range(count):
        agent.send(words)
        reply = agent.reply()
    assert reply == b"-ERR the transaction is too large\r\n"
    assert agent.call("EXEC").startswith(b"-EXECABORT")
    assert agent.call("GET", "k:a") == b"$-1\r\n"


def test_a_long_stream_of_commands_cut_anywhere_is_answered_whole(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """More than wait at once, where a packet ends within a command."""
    agent = connect(one_gateway.port, one_leash.issue("one").token)
    stream = request(("SET", "k:a", "value")) * 5_000
    for at in range(0, len(stream), 50_021):
        agent.socket.sendall(stream[at : at + 50_021])
    assert [agent.reply() for _ in range(5_000)] == [b"+OK\r\n"] * 5_000


def test_large_requests_of_one_identity_leave_room_for_another(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """It has half of the places, whatever it sends and however slowly."""
    one_leash.load(one=BROAD, two=BROAD)
    tokens = [one_leash.issue(name).token for name in ("one", "two")]
    for _ in range(5):
        slow = connect(one_gateway.port, tokens[0])
        slow.socket.sendall(request(("SET", "k:a", bytes(20 * MIB)))[: 2 * MIB])
    agent = connect(one_gateway.port, tokens[1])
    assert agent.call("SET", "k:b", bytes(3 * MIB)) == b"+OK\r\n"


def test_a_reader_that_stands_behind_tls_is_cut(
    one_leash: Leash, tmp_path: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transport does not say how much it holds."""
    monkeypatch.setattr(flow, "STALL_S", 1.0)
    one_leash.admin.set("k:big", bytes(40 * MIB))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = serve.tls_context(*map(str, certificate(tmp_path)))
    with gateway_to(one_leash.server.url, tls=tls) as served:
        plain = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        with context.wrap_socket(plain) as agent:
            token = one_leash.issue("one").token
            agent.sendall(request(("AUTH", token)) + request(("GET", "k:big")))
            wait_until(lambda: served.gateway.cuts["stalled"] == 1)


def test_much_before_login_that_is_no_command_closes_the_connection(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """Its parsing takes time from others; a large pipeline may follow AUTH at once."""
    stranger = connect(one_gateway.port)
    stranger.socket.sendall(b"\r\n" * 9_000)
    assert stranger.reply() == b"-ERR Protocol error: too much before login\r\n"
    agent = connect(one_gateway.port)
    agent.send(("AUTH", one_leash.issue("one").token), *[("ECHO", bytes(100))] * 300)
    assert [agent.reply()[:1] for _ in range(301)] == [b"+"] + [b"$"] * 300


def test_an_agent_that_leaves_while_it_subscribes_leaves_nothing(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """Its check ends in the iteration of the event loop in which it is gone."""
    token, gateway = one_leash.issue("one").token, one_gateway.gateway
    connect(one_gateway.port, token).call("SUBSCRIBE", "c:0")
    for _ in range(5):
        agent = connect(one_gateway.port, token)
        with stopped(one_leash.server):
            agent.send(("SUBSCRIBE", "c:1"))
            wait_until(lambda: any(item.under_way for item in gateway.connections))
            busy = threading.Thread(target=one_gateway.call, args=(time.sleep, 0.3))
            busy.start()
            time.sleep(0.1)
            agent.close()
            time.sleep(0.1)
        busy.join()
    wait_until(lambda: one_leash.admin.pubsub_numsub("c:1")[0][1] == 0)
    wait_until(lambda: sum(pipe.listener is not None for pipe in gateway.upstream.pipes) == 1)


def test_large_calls_rest_longer_after_each_error_until_one_succeeds(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are no plain calls, and up to a bound. Small ones neither count nor rest."""
    rests, loop, every = [0.0], one_gateway._loop, one_gateway.gateway.shares

    def call_later(delay_s: float, call: Any, *args: Any, **options: Any) -> Any:
        if getattr(call, "__name__", "") == "count" and delay_s:
            rests[:] = [delay_s / shares.REST / -args[0] * 1e9]
        return type(loop).call_later(loop, delay_s, call, *args, **options)

    monkeypatch.setattr(loop, "call_later", call_later)
    monkeypatch.setattr(shares, "SLOWEST", 1e9)
    every._callers[every.strangers] = 1000
    agent = connect(one_gateway.port, one_leash.issue("one").token)
    keys = tuple(f"k:{number}" for number in range(6000))
    denied, granted = ("EXISTS", *keys, "no:1"), ("EXISTS", *keys)
    other, small = ("BLPOP", *keys, "no:1", 1), ("GET", "no:1")
    commands = denied, other, denied, small, denied, denied, denied, granted, denied
    for words, times in zip(commands, (2, 4, 8, 8, 16, 32, 32, 1, 2), strict=True):
        assert agent.call(*words)[:1] == (b":" if words is granted else b"-")
        assert round(rests[0]) == times
    monkeypatch.setattr(shares, "MAX_CALL_S", 1e-9)
    agent.call(*denied)
    assert rests[0] < 1


def test_requests_on_many_connections_of_an_agent_are_parsed_in_turns(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that arrive together take no more time at once than those of one connection."""
    monkeypatch.setattr(shares, "SLICE_S", 1e-6)
    every, kept, keep = one_gateway.gateway.shares, list[bytes](), Requests.keep
    every._callers[every.strangers] = 1000
    token = one_leash.issue("one").token
    agents = [connect(one_gateway.port, token) for _ in range(5)]

    def counting(requests: Requests, data: bytes) -> None:
        kept.append(data)
        keep(requests, data)

    monkeypatch.setattr(Requests, "keep", counting)
    busy = threading.Thread(target=one_gateway.call, args=(time.sleep, 0.5))
    busy.start()
    time.sleep(0.2)
    for agent in agents:
        agent.send(("GET", "k:none"), ("GET", "k:none"))
    busy.join()
    assert [agent.reply() + agent.reply() for agent in agents] == [b"$-1\r\n" * 2] * 5
    assert len(kept) == 4


def test_large_requests_have_their_places_until_they_are_answered(
    one_leash: Leash,
    one_gateway: ServedGateway,
    connect: Connect,
    eager: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the server stands, no more arrive; then all of them do."""
    # An agent that rests while its call is under way is read from after that.
    monkeypatch.setattr(shares, "SLICE_S", 60.0)
    token, gateway = one_leash.issue("one").token, one_gateway.gateway
    agents = [connect(one_gateway.port, token) for _ in range(5)]

    def others() -> list[bool]:
        """Return whether each connection is read from no more, of those that are not taken."""
        connections = [*gateway.connections]
        return [item.inbox.is_paused for item in connections if item.inbox.arrived_bytes < 4 * MIB]

    with stopped(one_leash.server):
        senders = [
            threading.Thread(target=agent.send, args=(("SET", "k:a", bytes(8 * MIB)),))
            for agent in agents
        ]
        for sender in senders:
            sender.start()
        wait_until(lambda: others() == [True] * (5 - serve.MAX_LARGE // 2))
        time.sleep(0.2)
        assert others() == [True] * (5 - serve.MAX_LARGE // 2)
    assert [agent.reply() for agent in agents] == [b"+OK\r\n"] * 5


def test_a_new_connection_begins_with_batches_as_small_as_its_agent_needs(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """Large replies of another connection made them small."""
    token, gateway = one_leash.issue("one").token, one_gateway.gateway
    one_leash.admin.set("k:mib", bytes(MIB))
    calls = []
    for agent in (connect(one_gateway.port, token), connect(one_gateway.port, token)):
        before = gateway.calls
        agent.send(*[("GET", "k:mib")] * 8)
        assert [len(agent.reply()) for _ in range(8)] == [MIB + 12] * 8
        calls.append(gateway.calls - before)
    assert calls[0] < calls[1] == 8


def test_what_waits_in_memory_is_cut_of_the_identity_that_has_most(
    one_leash: Leash,
    one_gateway: ServedGateway,
    connect: Connect,
    eager: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within MULTI, in front of a blocking command or beside a large request of another."""
    monkeypatch.setattr(serve, "MAX_WAITING", 6 * MIB)
    one_leash.load(one=BROAD, two=BROAD)
    many, single = (one_leash.issue(name).token for name in ("one", "two"))
    large = connect(one_gateway.port, single)
    data = request(("SET", "k:b", bytes(3 * MIB)))
    large.socket.sendall(data[:-100])
    for _ in range(4):
        agent = connect(one_gateway.port, many)
        agent.send(("MULTI",), ("SET", "k:a", bytes(MIB - 100)))
        agent.send(("BLPOP", "k:q", "0"), *[("ECHO", bytes(100))] * 100)
    wait_until(lambda: one_gateway.gateway.cuts["memory"] >= 1)
    large.socket.sendall(data[-100:])
    assert large.reply() == b"+OK\r\n"


def test_a_stranger_that_reads_nothing_is_cut(
    one_gateway: ServedGateway, connect: Connect, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last error waits before it, and is not waited for."""
    monkeypatch.setattr(flow, "LOGIN_S", 0.5)
    monkeypatch.setattr(flow, "UNREAD_S", 0.5)
    stranger = connect(one_gateway.port)
    stranger.socket.settimeout(0.2)
    with contextlib.suppress(TimeoutError, ConnectionError):
        while True:
            stranger.send(*[("PING",)] * 1_000)
    wait_until(lambda: not one_gateway.gateway.connections)


def test_what_needs_a_connection_of_its_own_is_not_sent_without_one(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply is NOTSENT: the client may send the command again."""
    monkeypatch.setattr(upstream, "MAX_OF_IDENTITY", 1)
    token = one_leash.issue("one").token
    assert connect(one_gateway.port, token).call("WATCH", "k:a") == b"+OK\r\n"
    for words in (("SET", "k:b", bytes(3 * MIB)), ("SUBSCRIBE", "c:1"), ("WATCH", "k:a")):
        assert connect(one_gateway.port, token).call(*words).startswith(b"-NOTSENT "), words
    assert not one_leash.admin.exists("k:b")


def test_a_burst_of_strangers_is_bounded(
    one_gateway: ServedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each newcomer beyond the bound ends another."""
    monkeypatch.setattr(serve, "MAX_UNAUTHENTICATED", 20)
    busy = threading.Thread(target=one_gateway.call, args=(time.sleep, 0.5))
    busy.start()
    for _ in range(60):
        connect(one_gateway.port)
    busy.join()
    wait_until(lambda: len(one_gateway.gateway.connections) == 20)


# Memory, of a process.


def test_replies_that_are_never_read_take_little_memory(
    one_leash: Leash, process: SpawnedGateway, connect: Connect
) -> None:
    """200 MB are asked for, and a few wait."""
    one_leash.admin.set("k:big", bytes(MIB))
    agent, other = (connect(process.port, one_leash.issue("one").token) for _ in range(2))
    other.call("GET", "k:big")
    before = process.peak
    agent.send(*[("GET", "k:big")] * 200)
    for _ in range(100):
        assert other.call("GET", "k:a") == b"$-1\r\n"
        time.sleep(0.01)
    assert process.peak - before < 48 * MIB


def test_a_flood_of_wrong_tokens_takes_little_memory(
    one_leash: Leash, process: SpawnedGateway, connect: Connect
) -> None:
    """Nothing stays of them."""
    agent = connect(process.port, one_leash.issue("one").token)
    agent.call("GET", "k:a")
    before = process.resident
    for _ in range(3):
        flood = [connect(process.port) for _ in range(300)]
        for item in flood:
            item.send(("AUTH", new_token("one")))
        assert agent.call("GET", "k:a") == b"$-1\r\n"
        for item in flood:
            assert item.reply() == b"-WRONGPASS LEASH TOKEN_UNKNOWN\r\n"
            item.close()
    assert process.resident - before < 48 * MIB


@pytest.mark.slow
def test_idle_connections_take_little_memory(one_leash: Leash, process: SpawnedGateway) -> None:
    """At most 10 KiB each, of 5,000 that have logged in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 500:
        pytest.skip("the limit of open files is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tokens = [one_leash.issue("one").token for _ in range(5)]
    idle: list[socket.socket] = []
    try:
        for number in range(200 + IDLE):
            if number == 200:
                before = process.resident
            item = socket.create_connection(("127.0.0.1", process.port))
            idle.append(item)
            item.sendall(request(("AUTH", tokens[number % 5])))
            assert item.recv(100) == b"+OK\r\n"
        each = (process.resident - before) / IDLE
    finally:
        for item in idle:
            item.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"{each / KIB:.1f} KiB each")
    assert each <= 10 * KIB


# Health and metrics.


def page(port: int, path: str) -> tuple[int, str]:
    """Return status and body of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_health_and_metrics_say_what_is_there(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, eager: None
) -> None:
    """Ready is who has a connection to the server; secrets are nowhere."""
    token, admin = one_leash.issue("one").token, one_gateway.admin
    connect(one_gateway.port, token).call("GET", "k:a")
    connect(one_gateway.port).call("AUTH", token[:-1] + ("a" if token[-1] != "a" else "b"))
    assert page(admin, "/healthz") == (200, "ok\n")
    assert page(admin, "/readyz") == (200, "ok\n")
    status, metrics = page(admin, "/metrics")
    assert status == 200
    for line in (
        "keyleash_gateway_connections 2.0",
        "keyleash_gateway_tokens 1.0",
        'keyleash_gateway_logins_total{result="accepted"} 1.0',
        'keyleash_gateway_logins_total{result="denied"} 1.0',
    ):
        assert line in metrics, metrics
    assert token not in metrics
    assert page(admin, "/other")[0] == 404


def test_admin_port_survives_what_is_no_http(one_gateway: ServedGateway) -> None:
    """It closes such connections."""
    for junk in (b"\r\n\r\n", b"GET\r\n\r\n", bytes(100_000), b"*1\r\n$4\r\nPING\r\n\r\n\r\n"):
        address = "127.0.0.1", one_gateway.admin
        # OSError: where the gateway has closed it, the socket is no longer connected.
        with socket.create_connection(address) as item, contextlib.suppress(OSError):
            item.sendall(junk)
            item.shutdown(socket.SHUT_WR)
            while item.recv(1000):
                pass
    assert page(one_gateway.admin, "/healthz")[0] == 200


# Secrets.


def test_no_token_is_in_a_log_or_a_repr(
    one_leash: Leash,
    one_gateway: ServedGateway,
    connect: Connect,
    eager: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also after failures, and of what the agent sends where a token has no place."""
    caplog.set_level(0)
    token, wrong = one_leash.issue("one").token, new_token("one")
    agent = connect(one_gateway.port, token)
    replies = [
        agent.call("SET", "k:a", token),
        agent.call("CLIENT", "SETNAME", token),
        agent.call("GET", token),
        agent.call(token, "x"),
        agent.call("KEYLEASH", "ONCE", token, "SET", "k:a", "1"),
        agent.call("KEYLEASH", token, "x", "y"),
        agent.call("HELLO", "3", token),
        agent.call("EVAL", token, "0"),
        connect(one_gateway.port).call("AUTH", wrong),
        connect(one_gateway.port).call(token),
    ]
    agent.send(("MULTI",), (token, token), ("EXEC",))
    replies += [agent.reply() for _ in range(3)]
    gateway = one_gateway.gateway
    items = [*gateway.connections, *gateway._agents.values(), gateway, gateway.upstream]
    shown = [repr(item) for item in items] + [caplog.text, repr(replies)]
    assert not any(secret in text for text in shown for secret in (token, wrong))


def test_an_error_after_a_part_of_a_batch_is_a_lost_reply() -> None:
    """Of any kind, as it must not look as if nothing had run."""
    errors = iter([None, BusyLoadingError("loading")])

    async def exchange(calls: list[Any], note: Callable[..., None]) -> None:
        if error := next(errors):
            raise error
        note(calls[0], [1])

    taken = SimpleNamespace(exchange=exchange)
    agent: Any = SimpleNamespace(take=lambda: taken, give_back=Mock())
    commands = [("INCR", b"k:a"), ("SET", b"k:b", bytes(3 * MIB))]
    with pytest.raises(RedisConnectionError) as caught:
        asyncio.run(Agent.run_each(agent, commands))
    assert is_sent(caught.value)
