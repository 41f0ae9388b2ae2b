"""Server cost of calls: rows, a table, remarks and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmarks.support.bars import Spread, ratios, spread_of
from benchmarks.support.bench import Plan, Samples
from benchmarks.support.section import Figure
from benchmarks.support.servers import Cores
from benchmarks.support.variants import Variant

BUSY = 0.9
"""From this share on, the generator limits the calls per second. With many clients either it or
the server should reach it, with one client their sum; otherwise other processes used the cores."""

ENOUGH_TO_FILL = 10
"""From this number of connections on, there is always a call to answer."""

SERVER_US = "µs of server CPU"
OPS_PER_S = "ops/s"


@dataclass(frozen=True, slots=True)
class Row:
    """A variant at one number of connections, over all rounds.

    Attributes:
        commands: Commands per write.
        cost: Server CPU time per command, µs.
        cost_ratio: Ratio to the baseline, round by round.
        best_ratio: Ratio of the least costs of any round, which has the least noise.
        rate: Commands per second.
        rate_ratio: Ratio to the baseline.
        server_busy, client_busy: Medians of the shares of `Sample`.
    """

    variant: str
    baseline: str
    connections: int
    commands: int
    cost: Spread
    cost_ratio: Spread
    best_ratio: float
    rate: Spread
    rate_ratio: Spread
    server_busy: float
    client_busy: float

    @property
    def undisturbed(self) -> bool:
        """Return whether the run had its cores for itself."""
        if self.connections == 1:
            return self.server_busy + self.client_busy >= BUSY
        if self.connections < ENOUGH_TO_FILL:
            return True
        return max(self.server_busy, self.client_busy) >= BUSY


def rows_of(samples: Samples, variants: Iterable[Variant]) -> tuple[Row, ...]:
    """Return a row per variant and number of connections."""
    numbers = dict.fromkeys(connections for _, connections in samples)
    return tuple(
        _row(variant, connections, samples) for variant in variants for connections in numbers
    )


def row_of(rows: Iterable[Row], variant: Variant, connections: int) -> Row:
    """Return the row of *variant* at a number of connections."""
    return next(
        row
        for row in rows
        if (row.variant, row.commands) == (variant.name, variant.commands)
        and row.connections == connections
    )


def _row(variant: Variant, connections: int, samples: Samples) -> Row:
    baseline = next(
        item
        for item, _ in samples
        if (item.name, item.commands) == (variant.baseline, variant.commands)
    )
    own, base = samples[variant, connections], samples[baseline, connections]
    cost, base_cost = ([item.server_us for item in side] for side in (own, base))
    rate, base_rate = ([item.ops_per_s for item in side] for side in (own, base))
    return Row(
        variant=variant.name,
        baseline=variant.baseline,
        connections=connections,
        commands=variant.commands,
        cost=spread_of(cost),
        cost_ratio=ratios(cost, base_cost),
        best_ratio=min(cost) / min(base_cost),
        rate=spread_of(rate),
        rate_ratio=ratios(rate, base_rate),
        server_busy=spread_of([item.server_busy for item in own]).median,
        client_busy=spread_of([item.client_busy for item in own]).median,
    )


def heading(version: str, name: str, plan: Plan, cores: Cores) -> str:
    """Return the first line of a server's report."""
    where = (
        "not pinned"
        if cores.server is None
        else f"server and one client on core {cores.server}, more clients on core {cores.client}"
    )
    length = f"{plan.requests} calls" if plan.run_s is None else f"{plan.run_s * 1e3:.0f} ms"
    return f"{version} ({name}); {plan.rounds} rounds of {length}; {where}"


def table_of(rows: Iterable[Row]) -> str:
    """Return a block of lines per number of connections and commands per write."""
    rows = sorted(rows, key=_circumstances)
    wide = max(len(row.variant) for row in rows) + 1
    lines = [
        f"{'':{wide}}{'server CPU':>10}{'':31}{'commands':>11}{'':24}{'busy':>14}",
        f"{'':{wide}}{'µs':>10}{'× base (min–max)':>24}{'best':>7}{'per s':>11}"
        f"{'× base (min–max)':>24}{'server':>7}{'client':>7}",
    ]
    for (connections, commands), group in groupby(rows, _circumstances):
        lines.append(f"{connections} client{'s'[: connections - 1]}, pipeline of {commands}")
        lines += [
            f"{row.variant:{wide}}{row.cost.median:10.2f}{row.cost_ratio!s:>24}"
            f"{row.best_ratio:7.2f}{row.rate.median:11,.0f}{row.rate_ratio!s:>24}"
            f"{row.server_busy:7.0%}{row.client_busy:7.0%}"
            for row in group
        ]
    return "\n".join(lines)


def is_noisy(rows: Iterable[Row]) -> bool:
    """Return whether other processes used the cores, which makes the bars unreliable."""
    return not all(row.undisturbed for row in rows)


def remarks_of(rows: Sequence[Row], *, whole_process: bool) -> list[str]:
    """Return remarks on the table.

    Args:
        whole_process: See `CpuClock`.
    """
    remarks = []
    bound = [
        f"{row.variant} ({row.connections} clients, pipeline of {row.commands})"
        for row in rows
        if row.connections >= ENOUGH_TO_FILL and row.client_busy >= BUSY
    ]
    if bound:
        remarks.append(
            f"commands per s are the load generator's limit, not the server's, for:"
            f" {'; '.join(bound)}"
        )
    disturbed = sum(not row.undisturbed for row in rows)
    if disturbed:
        remarks.append(
            f"NOISE: in {disturbed} of {len(rows)} rows other processes used the cores; repeat"
            " the run"
        )
    if whole_process:
        remarks.append("this server gives no CPU time of its main thread: whole process shown")
    return remarks


def figures_of(rows: Iterable[Row], server: str) -> tuple[Figure, ...]:
    """Return cost and rate of each row, absolute and relative to the baseline."""
    return tuple(
        Figure(
            row.variant, unit, value, server, {"clients": row.connections, "pipeline": row.commands}
        )
        for row in rows
        for unit, value in (
            (SERVER_US, row.cost),
            (f"× {row.baseline}, {SERVER_US}", row.cost_ratio),
            (OPS_PER_S, row.rate),
            (f"× {row.baseline}, {OPS_PER_S}", row.rate_ratio),
        )
    )


def _circumstances(row: Row) -> tuple[int, int]:
    return row.connections, row.commands
