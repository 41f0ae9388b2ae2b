"""The load generator: compiles `load.c` on first use and runs it."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

SOURCE = Path(__file__).with_name("load.c")
CACHE = Path(__file__).resolve().parents[2] / ".bench"
FLAGS = ("-O2", "-Wall", "-Wextra")


class BuildError(Exception):
    """There is no C compiler, or the program does not compile."""


def load_generator(cache: Path = CACHE) -> Path:
    """Return the compiled program; compile it unless *cache* has it.

    Raises:
        BuildError: it cannot be compiled; the message says what to install.
    """
    compiler = os.environ.get("CC", "cc")
    built_from = " ".join((compiler, *FLAGS)).encode() + SOURCE.read_bytes()
    program = cache / f"load-{hashlib.sha256(built_from).hexdigest()[:16]}"
    if program.exists():
        return program
    if shutil.which(compiler) is None:
        raise BuildError(
            f"no C compiler `{compiler}`, which the load generator needs: install gcc or clang"
            " (Debian: apt-get install gcc libc6-dev), or name one in CC"
        )
    cache.mkdir(parents=True, exist_ok=True)
    # Renamed when complete, so that a concurrent run never sees a partial program.
    unfinished = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [compiler, *FLAGS, "-o", str(unfinished), str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"`{compiler}` cannot compile {SOURCE.name}:\n{done.stderr.strip()}")
    unfinished.replace(program)
    return program


# A closed-loop load generator in its own process: N connections, one call in flight each.
#
# The process runs `load.c`, which documents the protocol. Requests and replies are prepared as
# bytes; per call there is one `recv`, one comparison and one `send`. With 50 connections the
# generator is still busier than some servers, so its busy share is part of the result: near 1,
# calls per second measure the generator. The server's CPU time per call does not have this flaw.

_STATUS = struct.Struct("=I")
_LOAD = struct.Struct("=IQI")
_EXCHANGE = struct.Struct("=II")
_TIMES = struct.Struct("=QQ")
_GO = _STATUS.pack(0)


class LoadError(Exception):
    """A reply was not the expected one, or the generator failed; the run is invalid."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A call as bytes: the request and its expected reply."""

    request: bytes
    reply: bytes


@dataclass(frozen=True, slots=True)
class User:
    """A user of the server."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Load:
    """A run.

    Attributes:
        port: Port of the server on loopback.
        requests: Total number of calls.
        connections: The calls of each connection, made in turn.
        core: Core for this run, instead of the generator's own.
        user: User of the connections; None for the default user.
    """

    port: int
    requests: int
    connections: tuple[tuple[Exchange, ...], ...]
    core: int | None = None
    user: User | None = None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Result of a run.

    Attributes:
        wall_s: Time from the first request to the last reply.
        busy: Share of that time in which the generator used its core, 0 to 1.
    """

    wall_s: float
    busy: float


class Generator:
    """The generator's process: `prepare` connects, then `run` makes the calls.

    After a LoadError the generator cannot be used again.
    """

    def __init__(self, core: int | None) -> None:
        self._core = core
        self._prepared: Load | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [str(load_generator())], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def prepare(self, load: Load) -> None:
        """Open the connections of *load* and wait until the server has accepted them all.

        Raises:
            LoadError: a connection failed, or the server does not know HELLO.
        """
        self._prepared = load
        core = self._core if load.core is None else load.core
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})
        self._say(packed_load(load))
        self._require_success()

    def run(self) -> LoadResult:
        """Make the calls of the prepared load.

        Raises:
            LoadError: some reply was not the expected one.
        """
        load = self._prepared
        if load is None:
            raise LoadError("no load was prepared")
        self._prepared = None
        self._say(_GO)
        self._require_success()
        wall_ns, cpu_ns = _TIMES.unpack(self._hear(_TIMES.size))
        return LoadResult(wall_ns / 1e9, cpu_ns / wall_ns)

    def _require_success(self) -> None:
        (failed,) = _STATUS.unpack(self._hear(_STATUS.size))
        if failed:
            (length,) = _STATUS.unpack(self._hear(_STATUS.size))
            text = self._hear(length).decode("ascii", "backslashreplace")
            raise LoadError(f"the load generator failed: {text!r}")

    def _say(self, words: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(words)
            self._process.stdin.flush()
        except OSError:
            raise LoadError("the load generator's process ended") from None

    def _hear(self, length: int) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        words = self._process.stdout.read(length)
        if len(words) != length:
            raise LoadError("the load generator's process ended")
        return words


def packed(words: Sequence[object]) -> bytes:
    """Return a command in RESP."""
    encoded = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(
        b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded
    )


def packed_load(load: Load) -> bytes:
    """Return the load in the format of `load.c`."""
    login = ("AUTH", load.user.name, load.user.password) if load.user else ()
    greeting = packed(("HELLO", "2", *login))
    words = [
        _LOAD.pack(load.port, load.requests, len(load.connections)),
        _STATUS.pack(len(greeting)),
        greeting,
    ]
    for exchanges in load.connections:
        words.append(_STATUS.pack(len(exchanges)))
        for exchange in exchanges:
            words.append(_EXCHANGE.pack(len(exchange.request), len(exchange.reply)))
            words += (exchange.request, exchange.reply)
    return b"".join(words)
