"""Never a lie about what ran: lost servers, lost scripts, killed gateways."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.conftest import BROAD
from keyleash.addons.servers import EmbeddedServer
from keyleash.addons.servers.embedded import retried
from keyleash.gateway.upstream import Upstream
from support.fronts import Front, certificate
from support.gateway_processes import SpawnedGateway, spawned_gateway
from support.gateways import Raw, ServedGateway, gateway_to, request
from support.leash import Leash
from support.replication import Node, nodes, wait_until
from support.sentinels import SERVICE, sentinels
from support.servers import embedded_label, find_server_binaries

Connect = Callable[..., Raw]
NOT_SENT = b"-NOTSENT keyleash: no connection to the server\r\n"
"""Replies after which a call is made again: they are recovered once, but may come twice."""
CLIENTS, CALLS, PIPELINE = 8, 300, 6
WITH_IDS: dict[str, Any] = {**BROAD, "idempotency": {"keep": "1h"}}


# The counting of many agents while everything is lost now and then.


@dataclass
class Counting:
    """An agent that counts to `CALLS` at a key, by singles and pipelines, and repeats the lost.

    Attributes:
        acknowledged: The replies.
        open: The calls without a reply, which may have run.
        denied: Replies that say that nothing ran.
        errors: Other replies.
    """

    port: int
    token: str
    name: str
    has_ids: bool
    acknowledged: list[int] = field(default_factory=list)
    open: int = 0
    denied: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)
    _raw: Raw | None = None

    def work(self) -> None:
        """Count, and connect again whenever the connection is lost."""
        left = [f"{self.name}:{number}" for number in range(CALLS)]
        turn = 0
        while left and not self.errors:
            turn += 1
            chosen = left[: PIPELINE if turn % 2 else 1]
            done = self._attempt(chosen)
            if self.has_ids:
                left = [item for item in left if item not in done]
            else:
                del left[: len(chosen)]
        if self._raw is not None:
            self._raw.close()

    def _attempt(self, ids: list[str]) -> set[str]:
        """Send calls in one packet; return the ids of those that were acknowledged."""
        done: set[str] = set()
        raw = self._connection()
        replies = 0
        with contextlib.suppress(OSError):
            raw.send(*(self._words(item) for item in ids))
            for item in ids:
                reply = raw.reply()
                if not reply.endswith(b"\r\n"):
                    break
                replies += 1
                if reply.startswith(b":"):
                    self.acknowledged.append(int(reply[1:]))
                    done.add(item)
                elif not reply.startswith(b"-NOTSENT"):
                    self.errors.append(reply)
                else:
                    self.denied.append(reply)
        if replies < len(ids):
            self.open += len(ids) - replies
            raw.close()
            self._raw = None
        return done

    def _words(self, item: str) -> tuple[str, ...]:
        once = ("KEYLEASH", "ONCE", item) if self.has_ids else ()
        return *once, "INCR", "k:n"

    def _connection(self) -> Raw:
        while self._raw is None:
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                raw = Raw(self.port)
                stack.callback(raw.close)
                if raw.call("AUTH", self.token) == b"+OK\r\n":
                    self._raw = raw
                    stack.pop_all()
            time.sleep(0.01)
        return self._raw


STEP = 150
"""The acknowledged calls after which something else is lost."""


class Losses:
    """The disturbances of gateway and server while agents count."""

    def __init__(
        self, node: Node, leash: Leash, gateway: SpawnedGateway, agents: list[Counting]
    ) -> None:
        self.node, self.leash, self.gateway, self.agents = node, leash, gateway, agents
        self.ended = threading.Event()

    def run(self) -> None:
        """Flush scripts all the time; at times load a policy, or kill the gateway or the server."""
        number = 0
        while not self.ended.wait(0.02):
            if sum(len(agent.acknowledged) for agent in self.agents) > STEP * (number + 1):
                number += 1
                self._lose(number)
            self.leash.admin.script_flush()

    def _lose(self, number: int) -> None:
        match number % 3:
            case 0:
                self.node.kill()
                retried(self.node.process.start, 100)
            case 1:
                self.gateway.kill()
                self.gateway.start()
            case 2:
                budget = {"requests": f"{1_000_000 + number}/day"}
                self.leash.load(one={**WITH_IDS, "budget": budget})


@pytest.mark.parametrize("has_ids", [pytest.param(False, marks=pytest.mark.slow), True])
def test_no_acknowledged_call_is_lost_and_none_with_an_id_runs_twice(
    has_ids: bool, tmp_path: Path
) -> None:
    """2,400 calls of 8 agents, while scripts are flushed, policies loaded, processes killed."""
    binary = find_server_binaries()[embedded_label()]
    # Otherwise it replies before it has written while an earlier write is synchronized.
    with EmbeddedServer(data=tmp_path / "data", appendfsync="always", binary=binary) as process:
        node = Node(process)
        leash = Leash(node)
        leash.load(one=WITH_IDS)
        tokens = [leash.issue("one").token for _ in range(CLIENTS // 2)]
        with spawned_gateway(process.url, tmp_path) as gateway, ThreadPoolExecutor(9) as threads:
            agents = [
                Counting(gateway.port, tokens[number // 2], f"agent-{number}", has_ids)
                for number in range(CLIENTS)
            ]
            losses = Losses(node, leash, gateway, agents)
            losing = threads.submit(losses.run)
            counting = [threads.submit(agent.work) for agent in agents]
            try:
                for item in counting:
                    item.result()
            finally:
                losses.ended.set()
            losing.result()
        value = int(leash.admin.get("k:n"))
        node.close_clients()

    assert [error for agent in agents for error in agent.errors] == []
    numbers = [number for agent in agents for number in agent.acknowledged]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) <= value
    if has_ids:
        assert value == len(numbers) == CLIENTS * CALLS
    else:
        assert len(numbers) <= value <= len(numbers) + sum(agent.open for agent in agents)
    assert sum(agent.open for agent in agents) > 0
    log = gateway.log.read_text()
    assert "Traceback" not in log, log
    assert not any(token in log for token in tokens)


# One loss at a time.


@pytest.fixture
def mortal() -> Iterator[Leash]:
    """A server that the test may kill and halt."""
    with nodes(find_server_binaries()[embedded_label()], 1) as (node,):
        leash = Leash(node)
        leash.load(one=BROAD)
        yield leash


@pytest.fixture
def its_gateway(mortal: Leash) -> Iterator[ServedGateway]:
    """A gateway to it."""
    with gateway_to(mortal.server.url) as served:
        yield served


def lost(leash: Leash, gateway: ServedGateway) -> None:
    """Kill the server, and wait until the gateway has seen it."""
    leash.server.kill()
    wait_until(lambda: not gateway.call(lambda: gateway.gateway.upstream.pipes))


def test_commands_are_not_sent_to_a_server_that_stays_lost(
    mortal: Leash, its_gateway: ServedGateway, connect: Connect
) -> None:
    """Each command says so, nothing runs, and the same connection goes on afterwards."""
    its_gateway.gateway.upstream.wait_s = 0.1
    issued = mortal.issue("one")
    agent = connect(its_gateway.port, issued.token)
    assert agent.call("SET", "k:n", "1") == b"+OK\r\n"
    lost(mortal, its_gateway)

    agent.send(*[("INCR", "k:n")] * 40)
    assert [agent.reply() for _ in range(40)] == [NOT_SENT] * 40
    for words in (("INCR", "k:n"), ("WATCH", "k:n"), ("BLPOP", "k:q", 0), ("SUBSCRIBE", "c:1")):
        assert agent.call(*words) == NOT_SENT
    assert connect(its_gateway.port).call("AUTH", issued.token) == NOT_SENT

    retried(mortal.server.process.start, 100)
    mortal.load(one=BROAD)
    other = connect(its_gateway.port, mortal.issue("one").token)
    assert other.call("INCR", "k:n") == b":1\r\n"
    assert agent.call("INCR", "k:n").startswith(b"-LEASH TOKEN_")


def test_commands_wait_for_a_server_that_comes_back(tmp_path: Path, connect: Connect) -> None:
    """A restart of the server is a pause for agents, not an error."""
    with EmbeddedServer(data=tmp_path / "data", appendfsync="always") as process:
        leash = Leash(Node(process))
        leash.load(one=BROAD)
        token = leash.issue("one").token
        with gateway_to(process.url) as served:
            served.gateway.upstream.wait_s = 60
            agent, owner, newcomer = (connect(served.port, token) for _ in range(3))
            lost(leash, served)
            agent.send(*[("INCR", "k:n")] * 3)
            owner.send(("WATCH", "k:w"))
            newcomer.send(("AUTH", token))
            wait_until(lambda: served.busy == 3)
            retried(process.start, 100)
            assert [agent.reply() for _ in range(3)] == [b":1\r\n", b":2\r\n", b":3\r\n"]
            assert [owner.reply(), newcomer.reply()] == [b"+OK\r\n"] * 2


@pytest.mark.parametrize(
    "commands",
    [
        [("INCR", "k:n")],
        [("INCR", "k:n")] * 20,
        [("BLPOP", "k:q", "0")],
        [("MULTI",), ("INCR", "k:n"), ("EXEC",)],
        [("WATCH", "k:n")],
        [("SUBSCRIBE", "c:1")],
        [("EVAL", "return 1", "0")],
    ],
    ids=["single", "pipeline", "blocking", "transaction", "watch", "subscription", "script"],
)  # fmt: skip
def test_a_server_that_is_lost_after_a_command_was_sent_closes_the_connection(
    commands: list[tuple[str, ...]], mortal: Leash, its_gateway: ServedGateway, connect: Connect
) -> None:
    """It may have run, and the agent sees what it would see of a lost server."""
    token = mortal.issue("one").token
    agent, other = (connect(its_gateway.port, token) for _ in range(2))
    assert agent.call("SET", "k:n", "1") == b"+OK\r\n"
    mortal.server.halt()
    agent.send(*commands)
    wait_until(lambda: its_gateway.busy == 1)
    time.sleep(0.2)
    mortal.server.kill()

    replies = list(iter(agent.reply, b""))
    assert replies == [b"+OK\r\n", b"+QUEUED\r\n"][: len(replies)]
    assert other.call("INCR", "k:n") == NOT_SENT


def test_a_transaction_that_cannot_begin_ends_the_connection(
    mortal: Leash, its_gateway: ServedGateway, connect: Connect
) -> None:
    """Otherwise its commands would run without it as soon as the server is back."""
    agent = connect(its_gateway.port, mortal.issue("one").token)
    agent.call("SET", "k:n", "1")
    lost(mortal, its_gateway)
    agent.send(("MULTI",), ("INCR", "k:n"), ("EXEC",))
    replies = [agent.reply() for _ in range(4)]
    assert replies in ([NOT_SENT, *[b""] * 3], [b"+OK\r\n", b"+QUEUED\r\n", NOT_SENT, b""])


def test_a_pipeline_keeps_its_order_while_scripts_are_flushed(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """NOSCRIPT and POLICY_STALE are recovered once, before anything that follows."""
    token = leash.issue("one").token
    agents = [connect(gateway.port, token) for _ in range(3)]
    ended = threading.Event()
    ran = 0

    def lose() -> None:
        number = 0
        while not ended.wait(0.005):
            leash.admin.script_flush()
            number += 1
            if number % 40 == 0:
                leash.load(one={**BROAD, "budget": {"requests": f"{10**7 + number}/day"}})

    with ThreadPoolExecutor(1) as threads:
        losing = threads.submit(lose)
        try:
            stored = [b"$-1\r\n"] * len(agents)
            for turn in range(10):
                for name, agent in enumerate(agents):
                    for number in range(150):
                        value = f"{name}:{turn}:{number}"
                        agent.send(("SET", f"k:{name}", value), ("GET", f"k:{name}"))
                for name, agent in enumerate(agents):
                    for number in range(150):
                        value = f"{name}:{turn}:{number}"
                        done, read = agent.reply(), agent.reply()
                        # A second flush while the first is recovered: nothing ran.
                        if not done.startswith(b"-NOTSENT"):
                            assert done == b"+OK\r\n"
                            stored[name] = f"${len(value)}\r\n{value}\r\n".encode()
                            ran += 1
                        assert read.startswith(b"-NOTSENT") or read == stored[name]
        finally:
            ended.set()
        losing.result()
    assert ran > 0


@pytest.mark.parametrize("is_early", [False, True])
def test_an_agent_that_leaves_at_any_moment_leaves_no_connection_to_the_server(
    is_early: bool, one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """While a command runs, or before its first step."""
    agents = [connect(one_gateway.port, one_leash.issue("one").token) for _ in range(4)]
    for agent in agents:
        assert agent.call("WATCH", "k:n") == b"+OK\r\n"
    gateway = one_gateway.gateway
    assert one_gateway.call(lambda: len(gateway.upstream.pipes)) == 1 + len(agents)

    def leave() -> None:
        for item in [*gateway.connections]:
            item.data_received(request(("GET", "k:n")))
            item.connection_lost(None)
            item.transport.abort()

    if is_early:
        one_gateway.call(leave)
    for agent in agents:
        with contextlib.suppress(OSError):
            agent.send(("GET", "k:n"), ("BLPOP", "k:none", "0"))
            agent.close()
    wait_until(lambda: one_gateway.call(lambda: len(gateway.upstream.pipes)) == 1)


# Ends in order.


def test_sigterm_delivers_the_replies_in_flight(mortal: Leash, tmp_path: Path) -> None:
    """No connection is accepted any more, and the process ends when the last reply is sent."""
    with spawned_gateway(mortal.server.url, tmp_path) as gateway:
        raws = [Raw(gateway.port) for _ in range(4)]
        token = mortal.issue("one").token
        for raw in raws:
            assert raw.call("AUTH", token) == b"+OK\r\n"
        idle, single, many, transaction = raws
        mortal.server.halt()
        single.send(("SET", "k:a", "1"))
        many.send(*[("INCR", "k:n")] * 10)
        transaction.send(("MULTI",), ("INCR", "k:t"), ("EXEC",))
        assert [transaction.reply() for _ in range(2)] == [b"+OK\r\n", b"+QUEUED\r\n"]
        time.sleep(0.2)
        with ThreadPoolExecutor(1) as threads:
            ending = threads.submit(gateway.terminate)
            assert idle.reply() == b""
            with (
                pytest.raises(ConnectionRefusedError),
                socket.create_connection(("127.0.0.1", gateway.port)),
            ):
                pass
            mortal.server.go_on()
            assert single.reply() == b"+OK\r\n"
            assert [many.reply() for _ in range(10)] == [b":%d\r\n" % n for n in range(1, 11)]
            assert transaction.reply() == b"*1\r\n:1\r\n"
            assert [raw.reply() for raw in raws] == [b""] * 4
            assert ending.result() == 0
        for raw in raws:
            raw.close()


def test_draining_lets_a_transaction_end_and_ends_what_waits(one_leash: Leash) -> None:
    """A transaction has until EXEC; a blocking command ends at its next poll, with nothing run."""
    token = one_leash.issue("one").token
    with gateway_to(one_leash.server.url) as served:
        held, waiting, listening = (Raw(served.port) for _ in range(3))
        for raw in (held, waiting, listening):
            assert raw.call("AUTH", token) == b"+OK\r\n"
        assert held.call("MULTI") == b"+OK\r\n"
        assert held.call("INCR", "k:n") == b"+QUEUED\r\n"
        listening.call("SUBSCRIBE", "c:1")
        waiting.send(("BLPOP", "k:q", "0"))
        time.sleep(0.1)
        with ThreadPoolExecutor(1) as threads:
            ending = threads.submit(served.stop)
            wait_until(lambda: served.gateway.is_draining)
            assert held.call("EXEC") == b"*1\r\n:1\r\n"
            assert waiting.reply() == NOT_SENT
            assert [raw.reply() for raw in (held, waiting, listening)] == [b""] * 3
            ending.result()
        for raw in (held, waiting, listening):
            raw.close()


# Other ways to the server.


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Any, Any, ServedGateway, str]]:
    """Two servers, their sentinels, a gateway to their primary, and a token."""
    binary = find_server_binaries()[embedded_label()]
    with nodes(binary, 2) as servers, sentinels(binary, servers[0], tmp_path) as found:
        leash = Leash(servers[0])
        leash.load(one=BROAD)
        urls = [f"redis://{host}:{port}" for host, port in found.addresses]
        served = ServedGateway(Upstream("redis://unused", urls, SERVICE))
        yield servers, found, served, leash.issue("one").token
        served.stop()


def test_calls_go_on_at_the_primary_that_sentinels_promote(
    watched: tuple[Any, Any, ServedGateway, str],
) -> None:
    """Those that were sent are lost with their connection; the agent's URL stays the same."""
    servers, found, served, token = watched
    agent = Counting(served.port, token, "agent", has_ids=False)
    assert agent._connection().call("SET", "k:n", "1") == b"+OK\r\n"
    servers[0].settle()
    switching = found.switched()
    next(switching)
    servers[0].kill()
    next(switching)

    def goes_on() -> bool:
        agent._attempt(["again"])
        return bool(agent.acknowledged)

    wait_until(goes_on)
    assert agent.errors == []
    assert agent.acknowledged == [2]
    assert servers[1].admin.get("k:n") == b"2"
    agent._connection().close()


def test_a_demoted_primary_is_left_at_its_first_refusal(
    watched: tuple[Any, Any, ServedGateway, str], connect: Connect
) -> None:
    """Its READONLY reaches the agent, since nothing ran; the next call is at the new primary."""
    servers, found, served, token = watched
    agent = connect(served.port, token)
    assert agent.call("SET", "k:n", "1") == b"+OK\r\n"
    servers[0].settle()
    found.clients[0].execute_command("SENTINEL", "FAILOVER", SERVICE)
    wait_until(lambda: found.primary() == servers[1].address)
    wait_until(lambda: servers[0].admin.info("replication")["role"] == "slave")
    replies: list[bytes] = []

    def goes_on() -> bool:
        # Sentinel closes connections of the node, and with it perhaps a call.
        raw = agent if replies[-1:] != [b""] else connect(served.port, token)
        replies.append(raw.call("SET", "k:n", "2"))
        return replies[-1] == b"+OK\r\n"

    wait_until(goes_on)
    assert servers[1].admin.get("k:n") == b"2"
    assert {reply.split(b" ")[0] for reply in replies[:-1]} <= {b"-READONLY", b"-NOTSENT"}


@pytest.mark.parametrize("way", ["tls", "unix"])
def test_servers_are_reached_by_tls_and_unix_sockets(
    way: str, one_leash: Leash, tmp_path: Path, connect: Connect
) -> None:
    """Their URL alone says so."""
    path = tmp_path if way == "tls" else tmp_path / "socket"
    authority = certificate(tmp_path)[0] if way == "tls" else ""
    front = Front(one_leash.server.port, path)
    url = {
        "tls": f"rediss://localhost:{front.port}?ssl_ca_certs={authority}",
        "unix": f"unix://{path}",
    }[way]
    try:
        with gateway_to(url) as served:
            agent = connect(served.port, one_leash.issue("one").token)
            agent.send(("SET", "k:a", "1"), ("GET", "k:a"))
            assert [agent.reply(), agent.reply()] == [b"+OK\r\n", b"$1\r\n1\r\n"]
            assert agent.call("WATCH", "k:a") == b"+OK\r\n"
            agent.send(("MULTI",), ("INCR", "k:a"), ("EXEC",))
            assert [agent.reply() for _ in range(3)][2] == b"*1\r\n:2\r\n"
            assert agent.call("SUBSCRIBE", "c:1").startswith(b"*3\r\n")
            one_leash.admin.publish("c:1", "hello")
            assert agent.reply().endswith(b"hello\r\n")
            agent.close()
    finally:
        front.stop()


def test_a_certificate_that_no_authority_signed_is_refused(
    one_leash: Leash, tmp_path: Path
) -> None:
    """The gateway is no laxer than redis-py."""
    front = Front(one_leash.server.port, tmp_path)
    try:
        with pytest.raises(redis.ConnectionError, match="certificate"):
            ServedGateway(Upstream(f"rediss://localhost:{front.port}"))
    finally:
        front.stop()


@pytest.mark.parametrize("sends", [False, True], ids=["after", "within"])
def test_a_connection_that_ends_while_it_is_taken_over_is_a_lost_one(
    one_leash: Leash, sends: bool
) -> None:
    """Within redis-py's handshake or after it: uvloop raises a RuntimeError for a closed handle."""

    async def handshake(made: Any) -> None:
        made._writer.transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if sends:
            await made.send_command("PING")

    async def connect() -> None:
        upstream = Upstream(one_leash.server.url)
        upstream.options["redis_connect_func"] = handshake
        await upstream.open()

    with pytest.raises(RedisConnectionError):
        uvloop.run(connect())
