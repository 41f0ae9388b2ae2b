"""Where the measures work: servers as they need them, and how much they may ask of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.support.bench import Bench, Plan, bench_on
from benchmarks.support.load import Generator
from benchmarks.support.servers import Cores, ServerChoice

CONNECTIONS = 50
FULL = Plan(rounds=9, requests=3_000, connections=(CONNECTIONS,))
QUICK = Plan(rounds=3, requests=1_000, connections=(CONNECTIONS,))


@dataclass(frozen=True, slots=True)
class Yard:
    """What every measure is given.

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
        """How many rounds, and calls per sample."""
        return QUICK if self.quick else FULL

    def server(self) -> AbstractContextManager[Bench]:
        """A fresh server. All of them share the server's core: one at a time is called."""
        return bench_on(self.choice, self.plan, self.cores, self.generator)

    def sizes(self, full: tuple[int, ...], quick: tuple[int, ...]) -> tuple[int, ...]:
        """Those to measure."""
        return quick if self.quick else full
