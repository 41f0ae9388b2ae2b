"""A proxy that loses, delays, cuts and fakes replies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import hiredis

from support.fronts import Served

FEW = 15
ROUNDS = int(os.environ.get("KEYLEASH_ROUNDS", FEW))
SEED = int(os.environ.get("KEYLEASH_SEED", 1 if ROUNDS == FEW else random.randrange(10**9)))
TIMEOUT_S = 0.1
HANDSHAKE = {b"HELLO", b"CLIENT", b"SELECT"}
FAKES = [
    b"READONLY You can't write against a read only replica.",
    b"LOADING Redis is loading the dataset in memory",
    b"NOSCRIPT No matching script. Please use EVAL.",
    b"LEASH POLICY_STALE",
]


class Proxy(Served):
    """Forwards whole packets, and does to some of them or to their replies what a network may do.

    Attributes:
        fates: How often it did what.
        chance: The share of packets that it does not simply forward.
    """

    def __init__(self, server_port: int, seed: int) -> None:
        self.fates: Counter[str] = Counter()
        self.chance = 0.0
        self._server_port = server_port
        self._random = random.Random(seed)
        super().__init__()

    async def serve(self, caller: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        reply, request = await asyncio.open_connection("127.0.0.1", self._server_port)
        with contextlib.closing(request), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._exchange(caller, request, reply, answer):
                pass

    async def _exchange(
        self,
        caller: asyncio.StreamReader,
        request: asyncio.StreamWriter,
        reply: asyncio.StreamReader,
        answer: asyncio.StreamWriter,
    ) -> bool:
        """Treat one packet; return whether the connection stays open."""
        packet, commands = await _whole(caller)
        fate = self._fate([command[0] for command in commands])
        self.fates[fate] += 1
        match fate:
            case "lose":
                return False
            case "cut the request":
                request.write(packet[: len(packet) // 2])
                await request.drain()
                return False
            case "fake":
                answer.write(self._faked([command[0] for command in commands]))
                await answer.drain()
                return True
        request.write(packet)
        await request.drain()
        replies, _ = await _whole(reply, len(commands))
        match fate:
            case "drop the reply":
                return False
            case "cut the reply":
                replies = replies[: self._random.randrange(len(replies))]
            case "delay":
                await asyncio.sleep(self._random.random() * TIMEOUT_S / 2)
            case "delay too long":
                await asyncio.sleep(TIMEOUT_S * 1.5)
        answer.write(replies)
        await answer.drain()
        return fate != "cut the reply"

    def _fate(self, names: list[bytes]) -> str:
        if self._random.random() > self.chance or HANDSHAKE & set(names):
            return "forward"
        fates = ["lose", "cut the request", "drop the reply", "cut the reply", "delay"]
        # Errors of a call would be no possible replies to what surrounds it.
        fates += ["fake"] * 3 if names[0] in (b"EVALSHA", b"MULTI") else []
        return self._random.choice([*fates, "delay too long"])

    def _faked(self, names: list[bytes]) -> bytes:
        error = self._random.choice(FAKES)
        if names[0] != b"MULTI":
            return b"-%s\r\n" % error * len(names)
        if error.startswith((b"NOSCRIPT", b"LEASH", b"READONLY")):
            return b"+OK\r\n+QUEUED\r\n*1\r\n-%s\r\n" % error
        return b"+OK\r\n-%s\r\n-EXECABORT Transaction discarded.\r\n" % error


def rounds(are_seen: Callable[[], Any]) -> Iterator[int]:
    """Count `ROUNDS`, and more until all outcomes *are_seen*: who meets which depends on time."""
    for number in range(20 * ROUNDS):
        if number >= ROUNDS and are_seen():
            return
        yield number
    raise AssertionError("some outcome did not come about")


async def _whole(stream: asyncio.StreamReader, count: int = 0) -> tuple[bytes, list[Any]]:
    """Read *count* messages, or a packet: all that arrives, up to the end of a message."""
    parser, raw, found = hiredis.Reader(), b"", list[Any]()
    while True:
        data = await stream.read(65536)
        if not data:
            raise ConnectionResetError
        raw += data
        parser.feed(data)
        while (message := parser.gets()) is not False:
            found.append(message)
        if found and not parser.has_data() and len(found) >= count:
            return raw, found
