"""Policies of any size; the duration and memory of loading them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import redis
from benchmarks.growth.curves import Curve, Growth, Point
from benchmarks.support.bars import Bar, Side
from benchmarks.support.bench import Bench
from benchmarks.support.policy import RAISED_LIMITS, Target, operator_of
from benchmarks.support.variants import KEY, OK, VALUE, Counts, Variant, Way

import keyleash
from keyleash.store.keyspace import Keyspace


def identity(
    name: str,
    keys: Iterable[str],
    allow: str = "write",
    *,
    deny: str = "",
    limits: str = RAISED_LIMITS,
    retain: int = 100_000,
    audit: str = "",
) -> str:
    """Return an identity of a policy: a grant, and three limits that allow every call."""
    listed = ", ".join(f'"{key}"' for key in keys)
    denied = f'    deny: [{{keys: ["{deny}"]}}]\n' if deny else ""
    return (
        f"  {name}:\n    kind: machine\n    audit: {{retain: {retain}{audit}}}\n"
        f"    grants: [{{allow: [{allow}], keys: [{listed}]}}]\n{denied}{limits}"
    )


def runner(name: str) -> str:
    """Return an identity with the rules of the example's agent-runner."""
    states = [f"agents:jobs:{{job_id}}:{kind}" for kind in ("state", "result")]
    return identity(name, states, "read, write", deny="agents:jobs:{job_id}:lock")


def document(identities: Iterable[str]) -> str:
    """Return a policy with these identities."""
    return "version: 1\nidentities:\n" + "".join(identities)


def guarded_set(name: str, key: str = KEY, value: str = VALUE) -> Variant:
    """Return a SET through the guard: allowed, counted and audited."""
    return Variant(name, ("SET", key, value), OK, Way.GUARD, name, Counts(passed=1, audited=1))


LOAD_BAR_S = 10.0
BLOCKED_BAR_MS = 5.0
LOGGED_FROM_US = 100
"""Loading a script takes longer. A log of all commands would slow down the activation."""
EVERY_COMMAND = 1_000_000
"""Exceeds the number of commands of a load."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded policy, with the durations of the load.

    Attributes:
        targets: Its guards in its order, each with a token.
        prepared_s: Duration of planning: parsing and compiling, on the client.
        activated_s: Duration of loading the scripts and activating.
        command_us: Duration of the longest command.
        command: Its name.
        cycle_us: Longest iteration of the server's event loop, which may run several commands
            and wait for the core. None if the server does not report it.
    """

    targets: tuple[Target, ...]
    prepared_s: float
    activated_s: float
    command_us: int
    command: str
    cycle_us: int | None

    @property
    def load_s(self) -> float:
        """Return the duration of the whole load."""
        return self.prepared_s + self.activated_s


def load(bench: Bench, document: str) -> Loaded:
    """Load a policy on a fresh server, and issue a token for every identity."""
    admin = bench.admin
    admin.config_set("slowlog-max-len", EVERY_COMMAND)
    admin.config_set("slowlog-log-slower-than", LOGGED_FROM_US)
    admin.config_resetstat()
    admin.slowlog_reset()
    policy, operator = keyleash.Policy(document), operator_of(admin)
    begun_s = time.perf_counter()
    plan = operator.plan(policy)
    prepared_s = time.perf_counter()
    operator.load(policy, expect=plan)
    activated_s = time.perf_counter()
    cycle_us = admin.execute_command("INFO", "debug").get("eventloop_duration_max")
    longest = max(admin.slowlog_get(EVERY_COMMAND), key=lambda entry: int(entry["duration"]))
    admin.config_set("slowlog-log-slower-than", -1)
    admin.slowlog_reset()
    guards = plan.prepared.guards
    tokens = [operator.tokens.issue(guard.identity).token for guard in guards]
    return Loaded(
        targets=tuple(map(Target, guards, tokens)),
        prepared_s=prepared_s - begun_s,
        activated_s=activated_s - prepared_s,
        command_us=int(longest["duration"]),
        command=longest["command"].split(maxsplit=1)[0].decode(),
        cycle_us=None if cycle_us is None else int(cycle_us),
    )


def growths_of(loads: Mapping[int, Loaded]) -> list[Growth]:
    """Return the growth of loads with the number of identities."""
    most = max(loads)
    largest = loads[most]
    longest = {size: item.command_us / 1e3 for size, item in loads.items()}
    blocked = [_curve("longest command", longest)]
    if largest.cycle_us is not None:
        cycles = {size: (item.cycle_us or 0) / 1e3 for size, item in loads.items()}
        blocked.append(_curve("longest turn of the event loop", cycles))
    return [
        Growth(
            "time to load",
            "identities in the policy",
            "s",
            (
                _curve("load", {size: item.load_s for size, item in loads.items()}),
                _curve("of that on the server", {n: item.activated_s for n, item in loads.items()}),
            ),
            bars=(_bar(f"time to load {most:,} identities", LOAD_BAR_S, "s", largest.load_s),),
        ),
        Growth(
            "server blocked by a load",
            "identities in the policy",
            "ms",
            tuple(blocked),
            bars=(
                _bar(
                    f"longest command of loading {most:,} identities",
                    BLOCKED_BAR_MS,
                    "ms",
                    longest[most],
                ),
            ),
            remarks=(f"the longest command of loading {most:,} identities: {largest.command}",),
        ),
    ]


def _curve(name: str, values: Mapping[int, float]) -> Curve:
    return Curve(name, tuple(Point(size, (values[size],)) for size in sorted(values)))


def _bar(measured: str, bound: float, unit: str, value: float) -> Bar:
    return Bar(measured, Side.AT_MOST, bound, f"1 {unit}", value)


BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory that a server has in use.

    Attributes:
        data: Keys, and the texts of scripts; `used_memory`.
        lua: The Lua machine with compiled scripts, which `used_memory` does not include.
    """

    data: int
    lua: int

    @property
    def total(self) -> int:
        """Return the sum of both."""
        return self.data + self.lua

    def minus(self, before: Footprint) -> Footprint:
        """Return the difference from *before*."""
        return Footprint(self.data - before.data, self.lua - before.lua)


def footprint(admin: redis.Redis) -> Footprint:
    """Return the memory in use, without the slow log."""
    admin.slowlog_reset()
    info = admin.info("memory")
    return Footprint(int(info["used_memory"]), int(info["used_memory_vm_eval"]))


def growth_of(
    name: str, grows: str, curves: Mapping[str, Mapping[int, int]], remarks: tuple[str, ...] = ()
) -> Growth:
    """Return the growth of bytes with the size; the first remark is bytes per unit."""
    drawn = tuple(
        Curve(curve, tuple(Point(size, (float(item),)) for size, item in sorted(taken.items())))
        for curve, taken in curves.items()
    )
    each = "; ".join(f"{curve.name} {curve.per_unit:,.0f}" for curve in drawn)
    return Growth(name, grows, BYTES, drawn, remarks=(f"bytes for one more: {each}", *remarks))


def keys_remark(admin: redis.Redis, identities: list[str]) -> str:
    """Return the median `MEMORY USAGE` of an identity's keys as a remark."""
    keyspace = Keyspace()
    kinds = {
        "state": keyspace.state,
        "guard record": keyspace.guard,
        "source texts": keyspace.source,
    }
    taken = {
        kind: statistics.median(
            admin.memory_usage(key(name), samples=0) or 0 for name in identities
        )
        for kind, key in kinds.items()
    }
    return "of an identity's keys: " + "; ".join(f"{kind} {n:,.0f}" for kind, n in taken.items())
