"""The clients compared: runs through redis-py and through keyleash, turn and turn about."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import redis
from benchmarks.support.measure import read_counts, require_counts
from benchmarks.support.policy import Target
from benchmarks.support.spread import Spread, ratios, spread_of
from benchmarks.support.variants import KEY, VALUE, Counts

import keyleash
from keyleash.protocol.active import Client

NOTHING = Counts()

JOB_KEY = KEY.format(job="0" * 12)


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to make calls through a client.

    Attributes:
        name: For errors.
        run: Makes so many calls, one after the other or at once.
        commands: Commands in one call.
        counts: What one call must count.
    """

    name: str
    run: Callable[[int], object]
    commands: int = 1
    counts: Counts = NOTHING


@dataclass(frozen=True, slots=True)
class Pace:
    """One run of one kind.

    Attributes:
        per_s: Commands per second of wall time.
        cpu_us: CPU time of this process per command, µs: what others on the machine do
            changes it little.
    """

    per_s: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same work through redis-py and through keyleash, all rounds together.

    Attributes:
        name: What was done.
        unit: Of the first two: µs, or commands per second.
        raw: Through redis-py.
        guarded: Through keyleash.
        ratio: Guarded by raw, round by round.
        best_ratio: The best guarded value of any round by the best raw one.
        cpu_ratio: CPU time of the client's process per command, guarded by raw.
    """

    name: str
    unit: str
    raw: Spread
    guarded: Spread
    ratio: Spread
    best_ratio: float
    cpu_ratio: Spread | None = None


def compared(name: str, raw: Sequence[Pace], guarded: Sequence[Pace]) -> Comparison:
    """Put two kinds' runs of all rounds together."""
    raw_per_s, guarded_per_s = ([run.per_s for run in side] for side in (raw, guarded))
    return Comparison(
        name,
        "per s",
        spread_of(raw_per_s),
        spread_of(guarded_per_s),
        ratios(guarded_per_s, raw_per_s),
        max(guarded_per_s) / max(raw_per_s),
        ratios([run.cpu_us for run in guarded], [run.cpu_us for run in raw]),
    )


def paces(
    admin: Client, target: Target, kinds: Sequence[tuple[Kind, int]], rounds: int
) -> Mapping[str, list[Pace]]:
    """The runs of each kind, by its name, in order of rounds.

    Args:
        kinds: Each with how many calls are a run.

    Raises:
        MiscountError: a call was refused, or passed, or not audited, against expectation.
    """
    for kind, calls in kinds:
        kind.run(calls)
    runs: dict[str, list[Pace]] = defaultdict(list)
    for number in range(rounds):
        for kind, calls in kinds if number % 2 == 0 else reversed(kinds):
            with counted(admin, target, kind, calls):
                begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
                kind.run(calls)
                cpu_s = time.process_time() - begun_cpu_s
                wall_s = time.perf_counter() - begun_s
            commands = calls * kind.commands
            runs[kind.name].append(Pace(commands / wall_s, cpu_s / commands * 1e6))
    return runs


@contextlib.contextmanager
def counted(admin: Client, target: Target, kind: Kind, calls: int) -> Iterator[None]:
    """Require that the block counts just what so many calls must count."""
    before = read_counts(admin, target)
    yield
    counts = read_counts(admin, target).minus(before)
    require_counts(counts, kind.counts, calls, kind.name)


def set_p50(
    url: str, admin: Client, target: Target, *, calls: int, rounds: int, protocol: int
) -> Comparison:
    """Median time of `set` through each client, *calls* of each in a round, call by call in turn.

    Raises:
        MiscountError: a guarded call was refused or not audited.
    """
    one = Kind("set", lambda _: None, counts=Counts(passed=1, audited=1))
    times = []
    with (
        redis.Redis.from_url(url, protocol=protocol) as raw,
        keyleash.Redis.from_url(url, token=target.token, protocol=protocol) as guarded,
    ):
        for _ in range(rounds):
            with counted(admin, target, one, calls):
                times.append(
                    alternated_p50_us(
                        calls,
                        lambda: raw.set(JOB_KEY, VALUE),
                        lambda: guarded.set(JOB_KEY, VALUE),
                    )
                )
    raw_us, guarded_us = zip(*times, strict=True)
    return Comparison(
        "set, p50",
        "µs",
        spread_of(raw_us),
        spread_of(guarded_us),
        ratios(guarded_us, raw_us),
        min(guarded_us) / min(raw_us),
    )


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
