"""What was measured, as a table for people or JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.support.measure import Sample, Spread, ratios, spread_of
from benchmarks.support.variants import GUARDED_SET, VARIANTS, Variant

BAR = 2.3
"""Server CPU of a guarded SET, in raw SETs."""
BUSY = 0.9
"""A generator this busy, or busier, is what limits the calls per second. With many clients
either it or the server should be: if neither is, others had the cores meanwhile."""


ENOUGH_TO_FILL = 10
"""With so many connections there is always a call to answer; with one, both sides wait in turn."""


@dataclass(frozen=True, slots=True)
class Row:
    """One variant at one number of connections, all rounds together.

    Attributes:
        cost: Server CPU time per call, µs.
        cost_ratio: The same in calls of the variant's baseline, round by round.
        best_ratio: The least cost of any round by the baseline's least: others on the
            machine can only add to a cost, so this is nearest to a machine at rest.
        rate: Calls per second.
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
class ClientRow:
    """Median times of one call through redis-py, and through the guarded client, in µs."""

    raw: Spread
    guarded: Spread
    ratio: Spread


@dataclass(frozen=True, slots=True)
class ServerReport:
    """All of one server.

    Attributes:
        name: As it was asked for.
        version: What it says it is.
        whole_process: Whether background threads are in the CPU times.
        many: The larger number of connections; the bar is for it.
    """

    name: str
    version: str
    whole_process: bool
    many: int
    rows: tuple[Row, ...]
    client: ClientRow

    @property
    def cost_of_guarded_set(self) -> Spread:
        """What the bar is about."""
        return next(
            row.cost_ratio
            for row in self.rows
            if row.variant == GUARDED_SET.name and row.connections == self.many
        )

    @property
    def noisy(self) -> bool:
        """Whether other processes had a part of the cores: then neither verdict is worth much."""
        return self.many >= ENOUGH_TO_FILL and any(
            max(row.server_busy, row.client_busy) < BUSY
            for row in self.rows
            if row.connections == self.many
        )

    @property
    def passes(self) -> bool:
        """Whether the bar is met."""
        return self.cost_of_guarded_set.median <= BAR


Samples = Mapping[tuple[str, int], Sequence[Sample]]
"""By name of the variant and number of connections, in order of rounds."""


def rows_of(samples: Samples) -> tuple[Row, ...]:
    """One row per variant and number of connections."""
    numbers = dict.fromkeys(connections for _, connections in samples)
    return tuple(
        _row(variant, connections, samples) for connections in numbers for variant in VARIANTS
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


def table(report: ServerReport) -> str:
    """One server's rows as text."""
    lines = [
        f"{'':24}{'clients':>8}{'server CPU':>13}{'':31}{'calls':>10}{'':7}{'busy':>14}",
        f"{'call':24}{'':8}{'µs per call':>13}{'× raw (min–max)':>24}{'best':>7}{'per s':>10}"
        f"{'× raw':>7}{'server':>7}{'client':>7}",
    ]
    for row in report.rows:
        ratio = row.cost_ratio
        lines.append(
            f"{row.variant:24}{row.connections:8}{row.cost.median:13.2f}"
            f"{f'{ratio.median:.2f} ({ratio.least:.2f}–{ratio.greatest:.2f})':>24}"
            f"{row.best_ratio:7.2f}{row.rate.median:10,.0f}{row.rate_ratio.median:7.2f}"
            f"{row.server_busy:7.0%}{row.client_busy:7.0%}"
        )
    return "\n".join([*lines, *_remarks(report)])


def _remarks(report: ServerReport) -> list[str]:
    client = report.client
    remarks = [
        f"through redis-py, one call at a time: set p50 {client.raw.median:.0f} µs, guarded"
        f" {client.guarded.median:.0f} µs; ratio {client.ratio.median:.2f}"
        f" ({client.ratio.least:.2f}–{client.ratio.greatest:.2f})",
    ]
    many = [row for row in report.rows if row.connections == report.many]
    bound = [row.variant for row in many if row.client_busy >= BUSY]
    if bound:
        remarks.append(
            f"calls per s at {report.many} clients are the load generator's limit, not the"
            f" server's, for: {', '.join(bound)}"
        )
    if report.noisy:
        remarks.append(
            "NOISE: for some calls neither server nor generator had its core to itself at"
            f" {report.many} clients; repeat this while nothing else runs"
        )
    if report.whole_process:
        remarks.append("this server gives no CPU time of its main thread: whole process shown")
    return remarks


def bar_line(report: ServerReport) -> str:
    """The bar and how the server stands to it."""
    measured = report.cost_of_guarded_set
    return (
        f"{report.version}: server CPU per guarded SET at {report.many} clients"
        f" ≤ {BAR} × raw SET: {measured.median:.2f} {'ok' if report.passes else 'MISSED'}"
        f"{' (noisy: measure again)' if report.noisy else ''}"
    )


def as_plain_data(report: ServerReport) -> dict[str, object]:
    """The report for JSON."""
    return {**asdict(report), "bar": BAR, "passes": report.passes, "noisy": report.noisy}
