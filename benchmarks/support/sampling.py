"""Sample cases in rounds on servers of their own."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import redis
from benchmarks.support.bench import Bench, Plan, bench_on
from benchmarks.support.load import Exchange, Generator, Load
from benchmarks.support.measure import REQUESTS_BUDGET, Sample, require_counts
from benchmarks.support.policy import Target
from benchmarks.support.report import BUSY
from benchmarks.support.servers import Cores, ServerChoice
from benchmarks.support.variants import CALLS_PER_CONNECTION, Counts, Variant, exchanges

from keyleash.compiler import CompiledGuard
from keyleash.store.state import unpack_state

CONNECTIONS = 50
FULL = Plan(rounds=5, requests=3_000, connections=(CONNECTIONS,))
QUICK = Plan(rounds=3, requests=1_000, connections=(CONNECTIONS,))


@dataclass(frozen=True, slots=True)
class Point:
    """The values of all rounds at one size."""

    size: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A measured value at several sizes, in their order and with the same rounds."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Yard:
    """The server and cores of a measurement.

    Attributes:
        choice: The server to start.
        quick: Fewer rounds and smaller sizes.
    """

    choice: ServerChoice
    cores: Cores
    generator: Generator
    quick: bool

    @property
    def plan(self) -> Plan:
        """Return the numbers of rounds and of calls per sample."""
        return QUICK if self.quick else FULL

    def server(self) -> AbstractContextManager[Bench]:
        """Start a server. All servers share a core; one is called at a time."""
        return bench_on(self.choice, self.plan, self.cores, self.generator)

    def sizes(self, full: tuple[int, ...], quick: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sizes to measure."""
        return quick if self.quick else full


Calls = tuple[tuple[Exchange, ...], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One size of one curve.

    Attributes:
        curve: Name of the curve.
        size: The size on the curve.
        bench: A server with that size.
        variant: The calls.
        targets: Guards and tokens that are called in turn.
        calls: Number of calls per sample.
        before: Restores the size before every sample.
    """

    curve: str
    size: int
    bench: Bench
    variant: Variant
    targets: tuple[Target, ...]
    calls: int
    before: Callable[[], object] = lambda: None


def curves_of(cases: Sequence[Case]) -> tuple[tuple[Curve, ...], bool]:
    """Sample all cases in rounds, every other one in reverse, so that a drift affects all equally.

    Returns:
        A curve of server CPU per call (µs) per name, in order of first use; and whether other
        processes used the cores.

    Raises:
        LoadError: a reply was not the expected one.
        MiscountError: the counts of keyleash differ from the calls.
    """
    calls = [(case, calls_of(case)) for case in cases]
    for case, bytes_of in calls:
        sample(case, bytes_of)
    samples: dict[str, dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for number in range(cases[0].bench.plan.rounds):
        for case, bytes_of in calls if number % 2 == 0 else reversed(calls):
            samples[case.curve][case.size].append(sample(case, bytes_of))
    return tuple(_curve(name, samples[name]) for name in samples), any(
        statistics.median(max(item.server_busy, item.client_busy) for item in each) < BUSY
        for sizes in samples.values()
        for each in sizes.values()
    )


def _curve(name: str, samples: Mapping[int, Sequence[Sample]]) -> Curve:
    return Curve(
        name,
        tuple(
            Point(size, tuple(item.server_us for item in samples[size])) for size in sorted(samples)
        ),
    )


def calls_of(case: Case) -> Calls:
    """Return the calls of every connection, which go to the targets in turn.

    All targets use the same keys.
    """
    shares = [exchanges(case.variant, target, connections=1)[0] for target in case.targets]
    different = max(len(shares), CONNECTIONS * CALLS_PER_CONNECTION)
    calls = [shares[n % len(shares)][n % CALLS_PER_CONNECTION] for n in range(different)]
    return tuple(tuple(calls[number::CONNECTIONS]) for number in range(CONNECTIONS))


def sample(case: Case, calls: Calls) -> Sample:
    """Make the calls of a case once; errors as for `curves_of`."""
    case.before()
    bench = case.bench
    load = Load(bench.server.port, case.calls, calls)
    bench.generator.prepare(load)
    guards = {target.guard.identity: target.guard for target in case.targets}
    counted = _counted(bench.admin, guards)
    used_s = bench.clock.used_s()
    seen = bench.generator.run()
    server_s = bench.clock.used_s() - used_s
    require_counts(
        _counted(bench.admin, guards).minus(counted),
        case.variant.counts,
        case.calls,
        case.variant.name,
    )
    return Sample(
        server_us=server_s / case.calls * 1e6,
        ops_per_s=case.calls / seen.wall_s,
        server_busy=server_s / seen.wall_s,
        client_busy=seen.busy,
    )


def _counted(admin: redis.Redis, guards: Mapping[str, CompiledGuard]) -> Counts:
    """Return the counts of these identities; without a budget of requests, `passed` is 0."""
    keyspace = next(iter(guards.values())).plan.keyspace
    with admin.pipeline(transaction=False) as pipe:
        for name in guards:
            pipe.get(keyspace.state(name))
            pipe.xinfo_stream(keyspace.audit(name))
            pipe.hgetall(keyspace.repeats(name))
        replies = pipe.execute(raise_on_error=False)
    passed = sum(
        limit.used
        for guard, state in zip(guards.values(), replies[::3], strict=True)
        for limit in unpack_state(state, guard.layout).limits
        if limit.slot.name == REQUESTS_BUDGET
    )
    return Counts(passed, sum(map(_added, replies[1::3])), sum(map(_denied, replies[2::3])))


def _denied(repeats: Mapping[bytes, bytes]) -> int:
    """Return a number that every denial changes: the sum of all repeats."""
    return sum(int(count) for name, count in repeats.items() if not name.startswith(b"id:"))


def _added(stream: object) -> int:
    """Return the number of entries ever added; 0 if there is no stream yet."""
    return int(stream["entries-added"]) if isinstance(stream, dict) else 0
