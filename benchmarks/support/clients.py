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
class Comparison:
    """The same work through redis-py and through keyleash, all rounds together.

    Attributes:
        name: What was done.
        unit: Of the first two: µs, or commands per second.
        raw: Through redis-py.
        guarded: Through keyleash.
        ratio: Guarded by raw, round by round.
    """

    name: str
    unit: str
    raw: Spread
    guarded: Spread
    ratio: Spread


def comparison(name: str, unit: str, raw: Sequence[float], guarded: Sequence[float]) -> Comparison:
    """Put two kinds' values of all rounds together."""
    return Comparison(name, unit, spread_of(raw), spread_of(guarded), ratios(guarded, raw))


def rates_per_s(
    admin: Client, target: Target, kinds: Sequence[tuple[Kind, int]], rounds: int
) -> Mapping[str, list[float]]:
    """Commands per second of each kind, by its name, in order of rounds.

    Args:
        kinds: Each with how many calls are a run.

    Raises:
        MiscountError: a call was refused, or passed, or not audited, against expectation.
    """
    for kind, calls in kinds:
        kind.run(calls)
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for kind, calls in kinds if number % 2 == 0 else reversed(kinds):
            with counted(admin, target, kind, calls):
                begun_s = time.perf_counter()
                kind.run(calls)
                wall_s = time.perf_counter() - begun_s
            rates[kind.name].append(calls * kind.commands / wall_s)
    return rates


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
    return comparison("set, p50", "µs", raw_us, guarded_us)


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
