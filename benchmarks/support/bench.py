"""One server under load: single runs of a variant, and rounds in which variants take turns."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import redis
from benchmarks.support.calls import exchanges
from benchmarks.support.command import Plan
from benchmarks.support.load import Generator, Load
from benchmarks.support.measure import CpuClock, Sample, cpu_clock, take_sample
from benchmarks.support.policy import Target
from benchmarks.support.readiness import fill_audit, let_rates_refill
from benchmarks.support.servers import Cores, ServerChoice, pinned, running
from benchmarks.support.variants import Variant

from keyleash.server import EmbeddedServer

Samples = Mapping[tuple[str, int], Sequence[Sample]]
"""By name of the variant and number of connections, in order of rounds."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A variant, and the guard and token of its guarded calls."""

    variant: Variant
    target: Target


@dataclass(frozen=True, slots=True)
class Bench:
    """A running server, a generator, and what they are asked for.

    Attributes:
        server: Alone on its core.
        admin: An operator's client of it.
        generator: Alone on the other core.
        clock: The server's CPU time.
        plan: How much to measure.
        script: Digest of the benchmark's own script.
    """

    server: EmbeddedServer
    admin: redis.Redis
    generator: Generator
    clock: CpuClock
    plan: Plan
    script: str

    def sample(self, contender: Contender, connections: int, calls: int) -> Sample:
        """Make *calls* calls, in all, on so many connections."""
        variant, target, protocol = contender.variant, contender.target, self.plan.protocol
        bytes_of = exchanges(
            variant, target, script=self.script, protocol=protocol, connections=connections
        )
        load = Load(self.server.port, protocol, calls, bytes_of)
        let_rates_refill(self.admin, target, variant.counts.passed * calls)
        return take_sample(self.generator, self.clock, target, variant, load)

    def warm_up(self, contenders: Sequence[Contender]) -> None:
        """Run every contender once, and fill the audit streams with events as it makes them."""
        for one in contenders:
            self.sample(one, self.plan.connections[0], self.plan.requests)
            if one.variant.counts.audited:
                fill_audit(self.admin, one.target)

    def rounds(self, contenders: Sequence[Contender]) -> Samples:
        """Sample every contender once in a round, at each number of connections."""
        samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)
        for number in range(self.plan.rounds):
            for connections in self.plan.connections:
                # There and back again, so that a drift favours nobody.
                for one in contenders if number % 2 == 0 else reversed(contenders):
                    sample = self.sample(one, connections, self.plan.requests)
                    samples[one.variant.name, connections].append(sample)
        return samples


@contextlib.contextmanager
def bench_on(
    choice: ServerChoice, plan: Plan, cores: Cores, generator: Generator, script: str = "return 0"
) -> Iterator[Bench]:
    """Start the server, and load *script*, for the length of the block."""
    with (
        running(choice, cores.server) as server,
        pinned(cores.client),
        redis.Redis.from_url(server.url) as admin,
    ):
        digest = str(admin.script_load(script))
        yield Bench(server, admin, generator, cpu_clock(admin), plan, digest)
