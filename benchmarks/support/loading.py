"""What a load costs: how long it takes, and for how long at a time the server serves nobody."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import redis

from keyleash.deploy import PreparedPolicy, activate_policy, prepare_policy
from keyleash.protocol.active import Client

ENTRIES = 100_000
"""Kept of the slow log: more commands than a load of 1,000 identities has."""

FROM_US = 100
"""From so long on, an execution is logged. From 0, each of the thousands of commands that a
script calls is logged while it runs, and that lengthens what is measured."""


@dataclass(frozen=True, slots=True)
class Block:
    """How an action held up a server.

    Attributes:
        action_s: How long it took, wall time.
        command_ms: The longest single execution, by the server's own slow log; 0 if none took
            `FROM_US`.
        command: Of what; its name alone.
        ping_ms: The longest that another connection waited for PING meanwhile.
    """

    action_s: float
    command_ms: float
    command: str
    ping_ms: float


@dataclass(frozen=True, slots=True)
class Loading:
    """A policy's way to a server: parsed and compiled, then loaded and activated."""

    prepare_s: float
    activation: Block


def longest_block(server_url: str, action: Callable[[], object]) -> Block:
    """
    Run *action* and say for how long at a time it kept the server busy.

    What a script calls is logged too, but never takes longer than the script.
    """
    with redis.Redis.from_url(server_url) as watch:
        settings = watch.config_get("slowlog-*")
        watch.config_set("slowlog-max-len", ENTRIES)
        watch.config_set("slowlog-log-slower-than", FROM_US)
        watch.slowlog_reset()
        try:
            with _Pinging(server_url) as pinging:
                started = time.perf_counter()
                action()
                action_s = time.perf_counter() - started
            log = watch.slowlog_get(ENTRIES)
            slow = [(int(entry["duration"]), bytes(entry["command"])) for entry in log]
        finally:
            for name in ("slowlog-log-slower-than", "slowlog-max-len"):
                watch.config_set(name, settings[name])
            watch.slowlog_reset()
    duration_us, words = max(slow, default=(0, b""))
    command = words.partition(b" ")[0].decode()
    return Block(action_s, duration_us / 1000, command, pinging.longest_s * 1000)


def longest_block_ms(server_url: str, action: Callable[[], object]) -> float:
    """The longest single execution on the server while *action* ran, in milliseconds."""
    return longest_block(server_url, action).command_ms


def load_and_measure(client: Client, server_url: str, document: str) -> Loading:
    """Prepare *document* and activate it, measuring both."""
    started = time.perf_counter()
    prepared: PreparedPolicy = prepare_policy(client, document)
    prepare_s = time.perf_counter() - started
    return Loading(
        prepare_s,
        longest_block(server_url, lambda: activate_policy(client, prepared, actor="benchmark")),
    )


class _Pinging:
    """A process that asks again and again, and remembers its longest wait.

    Of its own, because a thread of this one would also wait for Python.
    """

    def __init__(self, server_url: str) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.longest_s = 0.0
        self._ours, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_ping, args=(server_url, theirs))

    def __enter__(self) -> _Pinging:
        self._process.start()
        self._ours.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send(None)
        self.longest_s = self._ours.recv()
        self._process.join()


def _ping(server_url: str, parent: Connection) -> None:
    longest_s = 0.0
    with redis.Redis.from_url(server_url) as client:
        client.ping()
        parent.send(None)
        while not parent.poll(0.0002):
            started = time.perf_counter()
            client.ping()
            longest_s = max(longest_s, time.perf_counter() - started)
    parent.send(longest_s)
