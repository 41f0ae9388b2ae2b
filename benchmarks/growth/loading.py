"""How long a policy takes to load, and how long the server is blocked by it at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.growth.policies import issue_tokens
from benchmarks.growth.shape import Curve, Growth, Point
from benchmarks.support.bars import Bar, Side
from benchmarks.support.bench import Bench
from benchmarks.support.policy import Target

from keyleash.commands import load_table
from keyleash.operator import activate_policy, prepare_policy

LOAD_BAR_S = 10.0
BLOCKED_BAR_MS = 5.0
LOGGED_FROM_US = 100
"""Loading a script takes longer. A log of all commands has those within the activation too, and
so makes it longer."""
EVERY_COMMAND = 1_000_000
"""More than a load makes."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy that was brought to a server.

    Attributes:
        targets: Its guards in its order, each with a token.
        prepared_s: Parsing and compiling took so long; the server has no part in it.
        activated_s: Loading the scripts and activating.
        command_us: Time of the longest command of all that.
        command: Its name.
        cycle_us: The longest turn of the server's event loop: several commands may be in one,
            and time that others had the core is in it. None if the server does not say.
    """

    targets: tuple[Target, ...]
    prepared_s: float
    activated_s: float
    command_us: int
    command: str
    cycle_us: int | None

    @property
    def load_s(self) -> float:
        """From the text to the active policy."""
        return self.prepared_s + self.activated_s


def load(bench: Bench, document: str) -> Loaded:
    """Load a policy on a fresh server, and issue a token for every identity."""
    admin = bench.admin
    admin.config_set("slowlog-max-len", EVERY_COMMAND)
    admin.config_set("slowlog-log-slower-than", LOGGED_FROM_US)
    admin.config_resetstat()
    admin.slowlog_reset()
    begun_s = time.perf_counter()
    prepared = prepare_policy(admin, document, table=load_table())
    prepared_s = time.perf_counter()
    activate_policy(admin, prepared, actor="benchmark", allow_removal=True)
    activated_s = time.perf_counter()
    cycle_us = admin.execute_command("INFO", "debug").get("eventloop_duration_max")
    longest = max(admin.slowlog_get(EVERY_COMMAND), key=lambda entry: int(entry["duration"]))
    admin.config_set("slowlog-log-slower-than", -1)
    admin.slowlog_reset()
    names = [guard.identity for guard in prepared.guards]
    tokens = [issue_tokens(admin, name, 1)[0] for name in names]
    return Loaded(
        targets=tuple(map(Target, prepared.guards, tokens)),
        prepared_s=prepared_s - begun_s,
        activated_s=activated_s - prepared_s,
        command_us=int(longest["duration"]),
        command=longest["command"].split(maxsplit=1)[0].decode(),
        cycle_us=None if cycle_us is None else int(cycle_us),
    )


def growths_of(loads: Mapping[int, Loaded]) -> list[Growth]:
    """Loads by their number of identities, as what grows."""
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
