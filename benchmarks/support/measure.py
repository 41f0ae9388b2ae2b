"""Samples: what a run cost the server, and how samples of several rounds are put together."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis
from benchmarks.support.load import Generator, Load
from benchmarks.support.policy import Target
from benchmarks.support.variants import Counts, Variant

from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.state import unpack_state

MAIN_THREAD = ("used_cpu_user_main_thread", "used_cpu_sys_main_thread")
WHOLE_PROCESS = ("used_cpu_user", "used_cpu_sys")
REQUESTS_BUDGET = "budget.requests"


class MiscountError(Exception):
    """Keyleash counted other calls than were made, so what was measured is not what was meant."""


@dataclass(frozen=True, slots=True)
class CpuClock:
    """The CPU time that a server says it has used.

    Attributes:
        fields: The fields of INFO that are added up.
    """

    client: Client
    fields: tuple[str, str]

    @property
    def whole_process(self) -> bool:
        """Whether background threads are counted too, since the server lacks the finer fields."""
        return self.fields == WHOLE_PROCESS

    def used_s(self) -> float:
        """Seconds since the server started."""
        info = self.client.info("cpu")
        return sum(float(info[field]) for field in self.fields)


def cpu_clock(client: Client) -> CpuClock:
    """The main thread's clock if the server has one, else that of the whole process."""
    known = client.info("cpu")
    return CpuClock(client, MAIN_THREAD if MAIN_THREAD[0] in known else WHOLE_PROCESS)


@dataclass(frozen=True, slots=True)
class Sample:
    """One variant in one round.

    Attributes:
        server_us: Server CPU time per call, µs.
        ops_per_s: Calls per second of wall time, of all connections together.
        server_busy: Share of the run in which the server used its core, 0 to 1.
        client_busy: The same of the load generator.
    """

    server_us: float
    ops_per_s: float
    server_busy: float
    client_busy: float


def take_sample(
    generator: Generator, clock: CpuClock, target: Target, variant: Variant, load: Load
) -> Sample:
    """Run *load* once and say what it cost.

    Raises:
        LoadError: some reply was not the expected one.
        MiscountError: a call was refused, or passed, or not audited, against expectation.
    """
    generator.prepare(load)
    counted = read_counts(clock.client, target)
    used_s = clock.used_s()
    seen = generator.run()
    server_s = clock.used_s() - used_s
    counts = read_counts(clock.client, target).minus(counted)
    if counts != variant.counts.times(load.requests):
        raise MiscountError(f"{load.requests} calls of `{variant.name}` counted as {counts}")
    return Sample(
        server_us=server_s / load.requests * 1e6,
        ops_per_s=load.requests / seen.wall_s,
        server_busy=server_s / seen.wall_s,
        client_busy=seen.busy,
    )


def read_counts(client: Client, target: Target) -> Counts:
    """What keyleash has counted for the target's identity up to now."""
    keyspace = Keyspace()
    identity = target.guard.identity
    state = unpack_state(client.get(keyspace.state(identity)), target.guard.layout)
    return Counts(
        passed=next(one.used for one in state.limits if one.slot.name == REQUESTS_BUDGET),
        audited=_appended(client, keyspace.audit(identity)),
        denied=_appended(client, keyspace.denied(identity)),
    )


def _appended(client: Client, stream: str) -> int:
    """How many entries were ever added to a stream, those trimmed since included."""
    try:
        return int(client.xinfo_stream(stream)["entries-added"])
    except redis.ResponseError:
        return 0  # there is no such stream yet


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, and the least and greatest of them."""

    median: float
    least: float
    greatest: float


def spread_of(values: Sequence[float]) -> Spread:
    """Put the values of all rounds together."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(values: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Each round's value by the same round's baseline: what drifts meanwhile drops out."""
    return spread_of([one / base for one, base in zip(values, baseline, strict=True)])


def alternated_p50_us(
    calls: int, first: Callable[[], object], second: Callable[[], object]
) -> tuple[float, float]:
    """Median time of two functions, each called *calls* times, turn and turn about."""
    times: tuple[list[int], list[int]] = ([], [])
    clock = time.perf_counter_ns
    for _ in range(calls):
        for function, taken in ((first, times[0]), (second, times[1])):
            begun = clock()
            function()
            taken.append(clock() - begun)
    return statistics.median(times[0]) / 1e3, statistics.median(times[1]) / 1e3
