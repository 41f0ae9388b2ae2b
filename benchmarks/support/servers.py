"""Servers of benchmarks, each on one core."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from keyleash.addons.servers import EmbeddedServer

EMBEDDED = "embedded"
ON_PATH = ("redis-server", "valkey-server")


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of the server and of many clients; None if not pinned."""

    server: int | None
    client: int | None

    def of_clients(self, clients: int) -> int | None:
        """Return the core for a number of clients.

        A single client shares the server's core: they take turns anyway, and two cores would
        measure how fast they wake each other up.
        """
        return self.server if clients == 1 else self.client


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """A server to measure.

    Attributes:
        name: `embedded`, a program on PATH, or a path.
        binary: The program; None for the embedded Valkey.
    """

    name: str
    binary: Path | None


def choose_cores() -> Cores:
    """Return the first two cores of this process; none if there is only one.

    Unpinned, a call takes 15 or 54 µs, depending on the scheduler.
    """
    if not hasattr(os, "sched_getaffinity"):
        return Cores(None, None)
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[1]) if len(usable) > 1 else Cores(None, None)


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Pin this process, and processes that it starts in the block, to *core*."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def choose_servers(names: Sequence[str]) -> list[ServerChoice]:
    """Find the named servers; without names, the embedded one and those on PATH.

    Raises:
        FileNotFoundError: a named server is neither on PATH nor a file.
    """
    if names:
        return [_find(name) for name in names]
    found = [ServerChoice(EMBEDDED, None)]
    seen = set()
    for name in ON_PATH:
        path = shutil.which(name)
        # Debian may link one name to the other's program.
        if path is not None and (program := Path(path).resolve()) not in seen:
            seen.add(program)
            found.append(ServerChoice(name, Path(path)))
    return found


def _find(name: str) -> ServerChoice:
    if name == EMBEDDED:
        return ServerChoice(EMBEDDED, None)
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"no server `{name}`: neither on PATH nor a program")
    return ServerChoice(name, Path(path).absolute())


@contextlib.contextmanager
def running(choice: ServerChoice, core: int | None) -> Iterator[EmbeddedServer]:
    """Run the server on *core* during the block, without persistence."""
    server = EmbeddedServer(binary=choice.binary)
    with pinned(core):
        server.start()
    with server:
        yield server


def version_of(client: redis.Redis) -> str:
    """Return name and version, such as `valkey 9.1.2`."""
    info = client.info("server")
    name = info.get("server_name", "redis")
    return f"{name} {info.get(f'{name}_version', info['redis_version'])}"
