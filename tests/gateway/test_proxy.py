"""No reply reaches another agent while a proxy between gateway and server loses and fakes.

KEYLEASH_ROUNDS=1000 pytest tests/gateway/test_proxy.py   # as `make proxy`, with a new seed
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.gateways import Raw, ServedGateway, gateway_to
from support.leash import Leash
from support.proxies import ROUNDS, SEED, Proxy, rounds

AGENTS, TOKENS, KEYS, CALLS = 6, 3, 5, 4
# The last: as the reply to reading the guard's record, which no server gives.
DID_NOT_RUN = (b"-READONLY", b"-NOTSENT", b"-EXECABORT", b"-LEASH POLICY_STALE")
OK, QUEUED = b"+OK\r\n", b"+QUEUED\r\n"


class LostError(Exception):
    """The connection was closed."""


class Agent:
    """Writes and reads values that name it and their key.

    Attributes:
        outcomes: How often a call was answered, denied or lost.
    """

    def __init__(self, name: str, port: int, token: str, seed: int) -> None:
        self.name, self.outcomes = name, Counter[str]()
        self._port, self._token, self._random = port, token, random.Random(seed)
        self._raw: Raw | None = None
        self._numbers = itertools.count()
        self._failed: set[bytes] = set()

    def work(self) -> None:
        """Make some calls of any kind."""
        for _ in range(CALLS):
            call = self._random.choice(
                [self.single, self.many, self.transaction, self.watch, self.listen, self.leave]
            )
            try:
                call()
            except (LostError, OSError):
                self.outcomes["lost"] += 1
                self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    # Kinds of calls.

    def single(self) -> None:
        """Write and read, one after the other."""
        key, value = self._pair()
        self._wrote(value, self._call("SET", key, value))
        self._read(key, self._call("GET", key))

    def many(self) -> None:
        """Write and read in one packet."""
        pairs = [self._pair() for _ in range(self._random.randrange(1, 40))]
        raw = self._connection()
        raw.send(*(words for key, value in pairs for words in (("SET", key, value), ("GET", key))))
        for key, value in pairs:
            self._wrote(value, self._reply(raw))
            self._read(key, self._reply(raw))

    def transaction(self) -> None:
        """Write and read in a transaction."""
        self._transact(self._connection(), *self._pair())

    def watch(self) -> None:
        """Do so while a key is watched, which takes a connection to the server."""
        key, value = self._pair()
        raw = self._connection()
        if self._call("WATCH", key) == OK:
            self._read(key, self._call("GET", key))
            self._transact(raw, key, value)

    def _transact(self, raw: Raw, key: str, value: bytes) -> None:
        raw.send(("MULTI",), ("SET", key, value), ("GET", key), ("EXEC",))
        begun = self._reply(raw)
        if begun != OK:
            # The gateway closes the connection, so that the rest cannot run alone.
            assert begun.startswith(DID_NOT_RUN), begun
            self._failed.add(value)
            raise LostError
        assert [self._reply(raw), self._reply(raw)] == [QUEUED] * 2
        reply = self._reply(raw)
        head, expected = b"*2\r\n+OK\r\n", b"$%d\r\n%b\r\n" % (len(value), value)
        if reply == b"*-1\r\n":
            self._failed.add(value)
        elif reply.startswith(b"*"):
            assert reply == head + expected, (self.name, reply)
        else:
            self._wrote(value, reply)

    def listen(self) -> None:
        """Subscribe, and use the connection for commands again."""
        channel, raw = f"c:{self.name}", self._connection()
        raw.send(("SUBSCRIBE", channel), ("UNSUBSCRIBE", channel), ("GET", f"k:{self.name}:0"))
        for _ in range(2):
            reply = self._reply(raw)
            assert channel.encode() in reply or reply.startswith(DID_NOT_RUN), (self.name, reply)
        self._read(f"k:{self.name}:0", self._reply(raw))

    def leave(self) -> None:
        """Close the connection while a reply is on its way."""
        key, value = self._pair()
        raw = self._connection()
        raw.send(("SET", key, value), ("GET", key), ("BLPOP", "k:none", "1"))
        self.close()

    # Replies.

    def _pair(self) -> tuple[str, bytes]:
        """Return a key of the agent, and a value that was never used and names both."""
        key = f"k:{self.name}:{self._random.randrange(KEYS)}"
        return key, f"{key}={next(self._numbers)}".encode()

    def _wrote(self, value: bytes, reply: bytes) -> None:
        if reply.startswith(DID_NOT_RUN):
            self._failed.add(value)
            self.outcomes["denied"] += 1
        else:
            assert reply == OK, (self.name, reply)
            self.outcomes["answered"] += 1

    def _read(self, key: str, reply: bytes) -> None:
        if reply.startswith(DID_NOT_RUN) or reply == b"$-1\r\n":
            return
        _, value, _ = reply.split(b"\r\n")
        assert value.startswith(f"{key}=".encode()), (self.name, key, reply)
        assert value not in self._failed, (self.name, value)

    def _call(self, *words: Any) -> bytes:
        raw = self._connection()
        raw.send(words)
        return self._reply(raw)

    def _reply(self, raw: Raw) -> bytes:
        reply = raw.reply()
        if not reply.endswith(b"\r\n"):
            raise LostError
        return reply

    def _connection(self) -> Raw:
        while self._raw is None:
            raw = Raw(self._port)
            with contextlib.suppress(OSError):
                if raw.call("AUTH", self._token) == OK:
                    self._raw = raw
                    break
            raw.close()
        return self._raw


@pytest.fixture
def proxy(one_leash: Leash) -> Iterator[Proxy]:
    print(f"KEYLEASH_ROUNDS={ROUNDS} KEYLEASH_SEED={SEED}")
    proxy = Proxy(one_leash.server.port, SEED)
    yield proxy
    proxy.stop()
    print(proxy.fates)


@pytest.fixture
def served(proxy: Proxy) -> Iterator[ServedGateway]:
    """A gateway whose server is behind the proxy."""
    with gateway_to(f"redis://127.0.0.1:{proxy.port}") as served:
        yield served


def test_no_reply_reaches_another_agent(
    one_leash: Leash, proxy: Proxy, served: ServedGateway
) -> None:
    """Some share a token, all share the connection to the server, which is lost all the time."""
    tokens = [one_leash.issue("one").token for _ in range(TOKENS)]
    agents = [
        Agent(f"agent-{number}", served.port, tokens[number % TOKENS], SEED + number)
        for number in range(AGENTS)
    ]
    proxy.chance = 0.1
    with ThreadPoolExecutor(AGENTS) as threads:
        for _ in rounds(lambda: len({kind for agent in agents for kind in agent.outcomes}) == 3):
            list(threads.map(Agent.work, agents))
    for agent in agents:
        agent.close()
    assert served.gateway.cuts["failed"] == 0
