"""A closed-loop load generator in a process of its own: N connections, one call in flight each.

Everything that can be made before the clock starts is: requests are packed bytes, and
each has the exact bytes of its reply. What is left per call is one `recv`, one
comparison and one `send`. It is still slower than a server that answers plain SETs, so
its own busy share is part of the result: near 1, calls per second say more about the
generator than about the server. The server's CPU time per call does not have that flaw.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
RECEIVE_BYTES = 4096
REPLY_TIMEOUT_S = 20.0


class LoadError(Exception):
    """A reply was not the expected one, or the generator failed; the run counts for nothing."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call as bytes: the request, and the one reply that it may have."""

    request: bytes
    reply: bytes


@dataclass(frozen=True, slots=True)
class Load:
    """One run.

    Attributes:
        port: Of the server, on loopback.
        protocol: RESP version, 2 or 3, that the connections speak.
        requests: Calls in all.
        connections: For each connection the calls that it makes in turn, over and over.
    """

    port: int
    protocol: int
    requests: int
    connections: tuple[tuple[Exchange, ...], ...]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What the generator saw of one run.

    Attributes:
        wall_s: From the first request to the last reply.
        busy: Share of that time in which the generator used its core, 0 to 1.
    """

    wall_s: float
    busy: float


class Generator:
    """The generator's process. A run is `prepare`, which connects, and then `run`."""

    def __init__(self, core: int | None) -> None:
        # Spawned and not forked: a fork would carry the measuring process's heap along.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, core), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join()

    def prepare(self, load: Load) -> None:
        """Open the connections of *load* and wait until the server has accepted them all."""
        self._ask(load)

    def run(self) -> LoadResult:
        """Make the calls of the prepared load.

        Raises:
            LoadError: some reply was not the expected one.
        """
        result = self._ask(None)
        assert isinstance(result, LoadResult)  # noqa: S101 - what _serve sends after a run
        return result

    def _ask(self, question: Load | None) -> object:
        try:
            self._pipe.send(question)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise LoadError("the load generator's process ended") from None
        if isinstance(answer, BaseException):
            raise LoadError(f"the load generator failed: {answer}") from answer
        return answer


def _serve(pipe: Connection, core: int | None) -> None:
    """The generator's process: for each load, connect, say so, wait for the word, run."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    gc.disable()
    while True:
        load = pipe.recv()
        sockets: list[socket.socket] = []
        try:
            sockets = [_connected(load) for _ in load.connections]
            pipe.send("ready")
            pipe.recv()
            pipe.send(_drive(sockets, load.connections, load.requests))
        except (OSError, LoadError) as error:
            pipe.send(error)
        finally:
            for each in sockets:
                each.close()


def _connected(load: Load) -> socket.socket:
    connection = socket.create_connection((HOST, load.port), REPLY_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The reply of PING comes last, whatever HELLO answers in this version.
    connection.sendall(b"HELLO %d\r\nPING\r\n" % load.protocol)
    greeting = b""
    while not greeting.endswith(b"+PONG\r\n"):
        received = connection.recv(RECEIVE_BYTES)
        if not received or greeting.startswith(b"-"):
            raise LoadError(f"the server does not speak RESP{load.protocol}: {greeting!r}")
        greeting += received
    connection.setblocking(False)
    return connection


def _drive(
    sockets: Sequence[socket.socket], calls: Sequence[Sequence[Exchange]], requests: int
) -> LoadResult:
    """Make *requests* calls, each connection's next one as soon as it has its reply."""
    turns: dict[int, Iterator[tuple[bytes, bytes]]] = {}
    by_fd = {each.fileno(): each for each in sockets}
    poller = select.epoll()
    for each, own in zip(sockets, calls, strict=True):
        turns[each.fileno()] = itertools.cycle([(one.request, one.reply) for one in own])
        poller.register(each.fileno(), select.EPOLLIN)
    reads = {fd: each.recv for fd, each in by_fd.items()}
    sends = {fd: each.send for fd, each in by_fd.items()}
    expected: dict[int, bytes] = {}
    poll = poller.poll
    to_send, to_read = requests, requests
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    for fd in list(by_fd)[:requests]:
        request, expected[fd] = next(turns[fd])
        sends[fd](request)
        to_send -= 1
    while to_read:
        ready = poll(REPLY_TIMEOUT_S)
        if not ready:
            raise LoadError(f"no reply within {REPLY_TIMEOUT_S:g} s, {to_read} outstanding")
        for fd, _ in ready:
            reply = reads[fd](RECEIVE_BYTES)
            if reply != expected[fd]:
                _require_rest(by_fd[fd], reply, expected[fd])
            to_read -= 1
            if to_send:
                request, expected[fd] = next(turns[fd])
                # Less than the send buffer, which is empty: it goes out whole.
                sends[fd](request)
                to_send -= 1
    wall_s = time.perf_counter() - begun_s
    busy = (time.process_time() - begun_cpu_s) / wall_s
    poller.close()
    return LoadResult(wall_s, busy)


def _require_rest(connection: socket.socket, reply: bytes, expected: bytes) -> None:
    """Read on if the reply came in parts; refuse every other reply than the expected one."""
    connection.setblocking(True)
    connection.settimeout(REPLY_TIMEOUT_S)
    while reply and expected.startswith(reply) and reply != expected:
        received = connection.recv(RECEIVE_BYTES)
        if not received:
            break
        reply += received
    connection.setblocking(False)
    if reply != expected:
        raise LoadError(f"got {reply[:200]!r} where {expected[:200]!r} was expected")
