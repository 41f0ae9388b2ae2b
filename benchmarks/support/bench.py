"""A server under load: single runs of a variant, and rounds in which variants take turns."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import redis
from benchmarks.support.load import Exchange, Generator, Load
from benchmarks.support.measure import (
    CpuClock,
    Sample,
    cpu_clock,
    fill_audit,
    let_rates_refill,
    take_sample,
)
from benchmarks.support.policy import Target
from benchmarks.support.servers import Cores, ServerChoice, pinned, running
from benchmarks.support.variants import Variant, exchanges

from keyleash.addons.servers import EmbeddedServer

Samples = Mapping[tuple[Variant, int], Sequence[Sample]]
"""By variant and number of connections, in order of rounds."""

Bytes = tuple[tuple[Exchange, ...], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Amount of measurements.

    Attributes:
        rounds: Number of rounds; in each, all variants take turns.
        requests: Calls per run; with `run_s`, per run for warm-up and calibration.
        connections: Numbers of connections, the larger first.
        run_s: Duration of a run, instead of a number of calls.
    """

    rounds: int
    requests: int
    connections: tuple[int, ...]
    run_s: float | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """A variant, and the guard and token of its guarded calls."""

    variant: Variant
    target: Target


@dataclass(frozen=True, slots=True)
class Bench:
    """A running server with a load generator.

    Attributes:
        generator: Runs on the other core; with one connection on the server's.
        clock: CPU time of the server.
    """

    server: EmbeddedServer
    admin: redis.Redis
    generator: Generator
    clock: CpuClock
    plan: Plan
    cores: Cores
    _packed: dict[tuple[Variant, str, int], Bytes] = field(default_factory=dict)

    def sample(self, contender: Contender, connections: int, calls: int) -> Sample:
        """Make *calls* calls in total on the given number of connections."""
        variant, target = contender.variant, contender.target
        load = Load(
            port=self.server.port,
            requests=calls,
            connections=self._bytes_of(contender, connections),
            core=self.cores.of_clients(connections),
        )
        if variant.script:
            self.admin.script_load(variant.script)
        let_rates_refill(self.admin, target, variant.counts.passed * calls)
        return take_sample(self.generator, self.clock, target, variant, load)

    def warm_up(self, contenders: Sequence[Contender]) -> None:
        """Run every contender once, and fill the audit streams with its events."""
        for contender in contenders:
            self.sample(contender, self.plan.connections[0], self.plan.requests)
            if contender.variant.counts.audited:
                fill_audit(self.admin, contender.target)

    def rounds(self, contenders: Sequence[Contender]) -> Samples:
        """Sample every contender once per round and number of connections."""
        samples: dict[tuple[Variant, int], list[Sample]] = defaultdict(list)
        turns = [
            (connections, contender)
            for connections in self.plan.connections
            for contender in contenders
        ]
        calls = [self._calls(item, connections) for connections, item in turns]
        for number in range(self.plan.rounds):
            round_ = list(zip(turns, calls, strict=True))
            # Every other round in reverse, so that a drift affects all variants equally.
            for (connections, item), count in round_ if number % 2 == 0 else reversed(round_):
                sample = self.sample(item, connections, count)
                samples[item.variant, connections].append(sample)
        return samples

    def _calls(self, contender: Contender, connections: int) -> int:
        """Return the number of calls of a run."""
        if self.plan.run_s is None:
            return self.plan.requests
        trial = self.sample(contender, connections, self.plan.requests)
        per_s = trial.ops_per_s / contender.variant.commands
        return max(connections, round(per_s * self.plan.run_s))

    def _bytes_of(self, contender: Contender, connections: int) -> Bytes:
        variant, target = contender.variant, contender.target
        key = (variant, target.token, connections)
        if key not in self._packed:
            self._packed[key] = exchanges(variant, target, connections=connections)
        return self._packed[key]


@contextlib.contextmanager
def bench_on(
    choice: ServerChoice, plan: Plan, cores: Cores, generator: Generator
) -> Iterator[Bench]:
    """Run the server during the block."""
    with (
        running(choice, cores.server) as server,
        pinned(cores.client),
        redis.Redis.from_url(server.url) as admin,
    ):
        yield Bench(server, admin, generator, cpu_clock(admin), plan, cores)
