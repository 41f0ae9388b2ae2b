"""What a server's calls cost, as a table for people or plain data for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from benchmarks.support.bars import Bar
from benchmarks.support.bench import Samples
from benchmarks.support.spread import Spread, ratios, spread_of
from benchmarks.support.variants import Variant

BUSY = 0.9
"""A generator this busy, or busier, is what limits the calls per second. With many clients
either it or the server should be: if neither is, others had the cores meanwhile."""

ENOUGH_TO_FILL = 10
"""With so many connections there is always a call to answer; with one, both sides wait in turn."""


@dataclass(frozen=True, slots=True)
class Row:
    """One variant at one number of connections, all rounds together.

    Attributes:
        cost: Server CPU time per command, µs.
        cost_ratio: The same in commands of the variant's baseline, round by round.
        best_ratio: The least cost of any round by the baseline's least: others on the
            machine can only add to a cost, so this is nearest to a machine at rest.
        rate: Commands per second.
        rate_ratio: The same by the baseline's.
        server_busy, client_busy: Medians of the shares of `Sample`.
    """

    variant: str
    baseline: str
    connections: int
    cost: Spread
    cost_ratio: Spread
    best_ratio: float
    rate: Spread
    rate_ratio: Spread
    server_busy: float
    client_busy: float


@dataclass(frozen=True, slots=True)
class ServerReport:
    """All of one server.

    Attributes:
        heading: What was measured, where.
        version: What the server says it is.
        unit: What the rows' numbers are per: `call`, or `SET` if a call is several.
        whole_process: Whether background threads are in the CPU times.
        rows: One per variant and number of connections.
        bars: What was promised.
        remarks: Whatever else there is to say.
    """

    heading: str
    version: str
    unit: str
    whole_process: bool
    rows: tuple[Row, ...]
    bars: tuple[Bar, ...]
    remarks: tuple[str, ...] = ()

    @property
    def many(self) -> int:
        """The larger number of connections."""
        return max(row.connections for row in self.rows)

    @property
    def noisy(self) -> bool:
        """Whether other processes had a part of the cores: then no verdict is worth much."""
        return self.many >= ENOUGH_TO_FILL and any(
            max(row.server_busy, row.client_busy) < BUSY
            for row in self.rows
            if row.connections == self.many
        )

    def text(self) -> str:
        """The heading, a table, and remarks."""
        return "\n".join([self.heading, *_table(self.rows, self.unit), *_remarks(self)])

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def rows_of(samples: Samples, variants: Iterable[Variant]) -> tuple[Row, ...]:
    """One row per variant and number of connections."""
    numbers = dict.fromkeys(connections for _, connections in samples)
    return tuple(
        _row(variant, connections, samples) for variant in variants for connections in numbers
    )


def row_of(rows: Iterable[Row], variant: Variant, connections: int) -> Row:
    """The row of *variant* at so many connections."""
    return next(
        row for row in rows if row.variant == variant.name and row.connections == connections
    )


def _row(variant: Variant, connections: int, samples: Samples) -> Row:
    own = samples[variant.name, connections]
    base = samples[variant.baseline, connections]
    cost, base_cost = ([one.server_us for one in side] for side in (own, base))
    rate, base_rate = ([one.ops_per_s for one in side] for side in (own, base))
    return Row(
        variant=variant.name,
        baseline=variant.baseline,
        connections=connections,
        cost=spread_of(cost),
        cost_ratio=ratios(cost, base_cost),
        best_ratio=min(cost) / min(base_cost),
        rate=spread_of(rate),
        rate_ratio=ratios(rate, base_rate),
        server_busy=spread_of([one.server_busy for one in own]).median,
        client_busy=spread_of([one.client_busy for one in own]).median,
    )


def _table(rows: Iterable[Row], unit: str) -> list[str]:
    rows = sorted(rows, key=lambda row: -row.connections)
    wide = max(len(row.variant) for row in rows) + 1
    lines = [
        f"{'':{wide}}{'clients':>8}{'server CPU':>13}{'':31}{f'{unit}s':>10}{'':18}{'busy':>14}",
        f"{'call':{wide}}{'':8}{f'µs per {unit}':>13}{'× base (min–max)':>24}{'best':>7}"
        f"{'per s':>10}{'× base (min–max)':>18}{'server':>7}{'client':>7}",
    ]
    lines += [
        f"{row.variant:{wide}}{row.connections:8}{row.cost.median:13.2f}{row.cost_ratio!s:>24}"
        f"{row.best_ratio:7.2f}{row.rate.median:10,.0f}{row.rate_ratio!s:>18}"
        f"{row.server_busy:7.0%}{row.client_busy:7.0%}"
        for row in rows
    ]
    return lines


def _remarks(report: ServerReport) -> list[str]:
    remarks = list(report.remarks)
    many = [row for row in report.rows if row.connections == report.many]
    bound = [row.variant for row in many if row.client_busy >= BUSY]
    if bound:
        remarks.append(
            f"{report.unit}s per s at {report.many} clients are the load generator's limit, not"
            f" the server's, for: {', '.join(bound)}"
        )
    if report.noisy:
        remarks.append(
            "NOISE: for some calls neither server nor generator had its core to itself at"
            f" {report.many} clients; repeat this while nothing else runs"
        )
    if report.whole_process:
        remarks.append("this server gives no CPU time of its main thread: whole process shown")
    return remarks
