"""A server with hostile keys and an agent that may do everything to them, and what calls cost."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from keyleash.addons.servers import EmbeddedServer
from keyleash.addons.servers.embedded import stack_server
from keyleash.commands import CommandTable
from keyleash.commands.facts import NAMED_ONLY
from keyleash.commands.spec import OperationClass
from keyleash.store.records import guard_record
from keyleash.store.wire import BatchMode, batch_call, guard_call
from proofs.hostile.calls import NEW, Call, Draws
from proofs.hostile.keys import COLLIDING_WORDS, HITS, MASTER, MIB, PREFIX, build, copy
from support.collisions import colliding_words
from support.command_table import command_rows
from support.leash import NAMES, Leash, grant
from support.servers import RealServer, find_server_binaries

MAX_YARDSTICKS = 40
"""How many times as long as `YARDSTICK` the server's main thread may take for one call or batch:
250 ms where that takes 6.2 ms."""

SCATTERED = 1, 6
"""How many times as long a call may take where the allocator is libc's, and one with colliding
strings, which are then scattered over memory: docs/explanation/work-limits.md."""

MAX_MEMORY_MIB = 95
"""Of the server's process, over what it had before."""

RUNS = 6
"""How often a call that takes too much is made again; the least counts, since others use the
machine."""

YARDSTICK = "for i = 1, 500 do redis.sha1hex(string.rep('x', 4096)) end"
"""A reference script: on an idle machine it always takes the same few milliseconds of CPU time."""

_CHANGING = {OperationClass.WRITE, OperationClass.DELETE}


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a call.

    Attributes:
        cpu_ms: Of the server's main thread, as INFO reports it.
        memory_mib: How much the resident memory of its process grew at the most.
        reply: What the guard answered; an error is its text.
        bound_ms: The most that it may take.
    """

    cpu_ms: float
    memory_mib: float
    reply: Any
    bound_ms: float

    def __str__(self) -> str:
        return f"{self.cpu_ms:.1f} ms, {self.memory_mib:.0f} MiB, {repr(self.reply)[:80]}"


@contextlib.contextmanager
def ground(
    label: str,
    scale: float = 1,
    *,
    returning: bool = False,
    slack: float = 1,
    modules: bool = False,
) -> Iterator[Ground]:
    """Start a server of its own.

    Args:
        slack: How many times as long a call may take, where others use the same cores.
        returning: Whether it returns freed memory at once, so that all that a call takes is seen;
            this takes more time.
        modules: Whether it is the server on PATH with the modules of Redis Stack.
    """
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        os.environ.pop(name, None)
        if returning:
            os.environ[name] = "131072"
    binary, settings = stack_server() if modules else (find_server_binaries()[label], {})
    with EmbeddedServer(binary=binary, settings=settings) as process:
        server = RealServer(label, process)
        try:
            yield Ground(server, scale, slack=1e9 if returning else slack)
        finally:
            server.close_clients()


class Ground:
    """A server that is emptied and gets the hostile keys.

    Attributes:
        names: Of the commands that an agent may use.
        calls, denied: How many calls and batches were made, and how many were denied whole.
    """

    def __init__(self, server: RealServer, scale: float, *, slack: float) -> None:
        self._colliding = colliding_words(server.label, COLLIDING_WORDS)
        self._collisions = frozenset(self._colliding)
        server.clean()
        self._admin: Any = server.client(socket_timeout=120)
        for name in ("lazyfree-lazy-user-del", "lazyfree-lazy-server-del"):
            # As docs/reference/policy.md says.
            self._admin.config_set(name, "yes")
        is_libc = self._admin.info("memory")["mem_allocator"] == "libc"
        factors = SCATTERED if is_libc else (1, 1)
        self._bounds = [slack * MAX_YARDSTICKS * factor for factor in factors]
        self._pid = server.pid
        self._table: CommandTable = server.table
        self._shapes = build(self._admin, self._table, server.label, scale)
        leash = Leash(server)
        classes = ("read", "write", "delete", "scan")
        searched = {"indexes": [HITS.decode()]} if "FT.SEARCH" in self._table.commands else {}
        leash.load(
            one={
                "grants": [
                    grant(*classes, keys="k:*", **searched),
                    grant(*classes, keys="k:*", only=sorted(NAMED_ONLY)),
                    {"allow": ["publish", "subscribe"], "channels": ["k:*"]},
                ]
            }
        )
        record = guard_record(leash.admin.hgetall(NAMES.guard("one")))
        assert record is not None
        self._digests = record.digest, record.batch_digest
        self._token = leash.issue("one").token
        # Of the modules' commands those in the table.
        self.names = sorted(
            spec.name
            for spec in self._table
            if spec.refused is None and ("." not in spec.name or spec.name in command_rows())
        )
        self._dirty: set[bytes] = set()
        dumped = (self._admin.dump(MASTER + name.encode()) for name in self._shapes)
        self._payloads = [payload for payload in dumped if payload is not None]
        self._keys: dict[str, list[bytes]] = {}
        for name, shape in self._shapes.items():
            self._keys.setdefault(shape.kind, []).append(PREFIX + name.encode())
        self.calls = self.denied = 0
        self._best_ms = math.inf
        for _ in range(50):
            self._slowdown()

    def draws(self, seed: int | str) -> Draws:
        """Return the choices that belong to a seed."""
        return Draws(seed, self._keys, self._payloads, self._colliding)

    def fire(self, calls: Sequence[Call], mode: BatchMode | None = None) -> Cost:
        """Make one call, or a batch, on restored keys; again if it takes too much.

        Returns: The least cost of all runs.
        """
        cost = self._fire(calls, mode)
        self.calls += 1
        self.denied += isinstance(cost.reply, str) and cost.reply.startswith("LEASH ")
        for number in range(1, RUNS):
            if not self.is_too_much(cost) or cost.cpu_ms > 4 * cost.bound_ms:
                break
            time.sleep(0.02 * number)
            before = self._slowdown()
            other = self._fire(calls, mode)
            cpu_ms = other.cpu_ms / min(before, self._slowdown())
            cost = Cost(
                min(cost.cpu_ms, cpu_ms),
                min(cost.memory_mib, other.memory_mib),
                cost.reply,
                cost.bound_ms,
            )
        return cost

    def _slowdown(self) -> float:
        """Return how many times slower than at its best the machine is now."""
        before = self._cpu_ms()
        self._admin.eval(YARDSTICK, 0)
        took_ms = self._cpu_ms() - before
        self._best_ms = min(self._best_ms, took_ms)
        return took_ms / self._best_ms

    def is_too_much(self, cost: Cost) -> bool:
        """Return whether a call took more than any may."""
        return cost.cpu_ms > cost.bound_ms or cost.memory_mib > MAX_MEMORY_MIB

    def _fire(self, calls: Sequence[Call], mode: BatchMode | None) -> Cost:
        self._restore(calls)
        if mode is None:
            words = guard_call(self._table, self._digests[0], self._token, "", calls[0])
        else:
            words = batch_call(self._table, self._digests[1], self._token, "", mode, calls)
        # Garbage of earlier calls is not this one's.
        self._admin.eval("collectgarbage()", 0)
        self._admin.execute_command("MEMORY", "PURGE")
        with (Path("/proc") / str(self._pid) / "clear_refs").open("w") as file:
            file.write("5")
        resident = self._memory()
        before = self._cpu_ms()
        try:
            reply = self._admin.execute_command(*words)
        except redis.ResponseError as error:
            reply = str(error)
        cpu_ms = self._cpu_ms() - before
        memory = self._memory() - resident
        if any(self._changes(argv) for argv in calls):
            self._dirty.update(_named(calls))
        collides = any(
            word in self._collisions or b"colliding" in word for argv in calls for word in argv
        )
        return Cost(cpu_ms, memory, reply, self._best_ms * self._bounds[collides])

    def _restore(self, calls: Sequence[Call]) -> None:
        """Put back what earlier calls may have changed, of the keys that these name."""
        keys = self._dirty.intersection(_named(calls))
        self._dirty -= keys
        for key in keys:
            if key.startswith(NEW):
                self._admin.unlink(key)
            else:
                copy(self._admin, MASTER + key.removeprefix(PREFIX), key)

    def _changes(self, argv: Call) -> bool:
        name = argv[0].decode().upper()
        spec = self._table.commands.get(name)
        if spec is None:
            name = f"{name} {argv[1].decode().upper()}"
            spec = self._table.commands[name]
        needs = {need for search in spec.keys for need in search.needs}
        return bool(needs & _CHANGING) or spec.variant is not None or name == "XREADGROUP"

    def _cpu_ms(self) -> float:
        found = self._admin.info("cpu")
        parts = ("used_cpu_user_main_thread", "used_cpu_sys_main_thread")
        return 1000 * sum(float(found[part]) for part in parts)

    def _memory(self) -> float:
        """Return the most resident memory since the last look at it, in MiB."""
        with (Path("/proc") / str(self._pid) / "status").open() as file:
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / MIB


def _named(calls: Sequence[Call]) -> Iterator[bytes]:
    return (word for argv in calls for word in argv if word.startswith(PREFIX) and len(word) < 40)
