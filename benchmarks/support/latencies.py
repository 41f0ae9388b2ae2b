"""Latencies of calls through clients: rows, tables and figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.support.bars import Spread, ratios, spread_of
from benchmarks.support.clients import Kind, Run, Tried, Work
from benchmarks.support.section import Figure

PERCENTILES = (50.0, 99.0, 99.9)
BUCKETS_PER_OCTAVE = 8
"""A bucket of the histogram is 9 % wider than the one before."""

SHARE = "share of calls"
US = "µs"
PER_S = "commands/s"


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """A kind in all rounds: times in µs per call, ratios to the kind's baseline.

    Attributes:
        closed, steady: Times by percentile; `steady` from the scheduled start.
        p50_ratio: Ratio of the medians in a closed loop.
        rate: Commands per second in a closed loop.
        time_ratio: Ratio of the wall times per command in a closed loop.
        histogram: Shares of calls under the steady load, by lower bound of the bucket.
    """

    work: Work
    kind: Kind
    closed: Mapping[float, Spread]
    steady: Mapping[float, Spread]
    p50_ratio: Spread
    rate: Spread
    time_ratio: Spread
    rate_ratio: Spread
    histogram: Mapping[float, Spread]


def rows_of(tried: Tried) -> tuple[LatencyRow, ...]:
    """Return a row per kind."""
    return tuple(_row(tried, kind) for kind in tried.work.kinds)


def _row(tried: Tried, kind: Kind) -> LatencyRow:
    own, base = tried.seen[kind.name], tried.seen[kind.baseline]
    times, base_times = ([item.closed.per_call_ns for item in side] for side in (own, base))
    commands = tried.work.commands
    return LatencyRow(
        tried.work,
        kind,
        closed=_percentiles([item.closed for item in own]),
        steady=_percentiles([item.steady for item in own]),
        p50_ratio=ratios(
            *([percentile_us(item.closed, 50) for item in side] for side in (own, base))
        ),
        rate=spread_of([commands * 1e9 / time for time in times]),
        time_ratio=ratios(times, base_times),
        rate_ratio=ratios(base_times, times),
        histogram=_histogram([item.steady for item in own]),
    )


def _percentiles(runs: Sequence[Run]) -> dict[float, Spread]:
    return {
        percent: spread_of([percentile_us(run, percent) for run in runs]) for percent in PERCENTILES
    }


def percentile_us(run: Run, percent: float) -> float:
    """Return a percentile of the latencies in µs, by the nearest rank."""
    ordered = sorted(run.taken_ns)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] / 1e3


def _histogram(runs: Sequence[Run]) -> dict[float, Spread]:
    """Return shares of calls by bucket, without buckets that are empty in most rounds."""
    rounds = [
        Counter(math.floor(math.log2(taken / 1e3) * BUCKETS_PER_OCTAVE) for taken in run.taken_ns)
        for run in runs
    ]
    shares = {
        2 ** (bucket / BUCKETS_PER_OCTAVE): spread_of(
            [counts[bucket] / counts.total() for counts in rounds]
        )
        for bucket in sorted(set().union(*rounds))
    }
    return {from_us: share for from_us, share in shares.items() if share.median > 0}


def table_of(tried: Tried, rows: Iterable[LatencyRow]) -> str:
    """Return the name of the work and a line per row."""
    per_s = 1e9 / tried.interval_ns
    columns = "".join(f"{f'p{percent:g}':>9}" for percent in PERCENTILES)
    lines = [
        f"{tried.work.name}; steady load: {per_s:,.0f} calls per s",
        f"{'':38}{'commands':>9}{'wall time':>22}{'closed loop, µs a call':>49}"
        f"{'steady, µs from schedule':>27}",
        f"{'':38}{'per s':>9}{'× redis-py':>22}{'p50 × redis-py':>22}{columns}{columns}",
    ]
    for row in rows:
        times = (side[percent] for side in (row.closed, row.steady) for percent in PERCENTILES)
        lines.append(
            f"{row.kind.name:38}{row.rate.median:9,.0f}{row.time_ratio!s:>22}{row.p50_ratio!s:>22}"
            f"{''.join(f'{time.median:9,.0f}' for time in times)}"
        )
    if tried.waited.noisy:
        lines.append(
            f"NOISE: other processes used a core for {tried.waited.share:.0%} of the time;"
            " repeat the run"
        )
    return "\n".join(lines)


def figures_of(rows: Iterable[LatencyRow], server: str) -> tuple[Figure, ...]:
    """Return all numbers of the rows."""
    figures = []
    for row in rows:
        name, at = row.kind.name, {"work": row.work.name}
        base = row.kind.baseline
        figures += [
            Figure(name, PER_S, row.rate, server, at),
            Figure(name, f"× {base}, {PER_S}", row.rate_ratio, server, at),
            Figure(name, f"× {base}, wall time", row.time_ratio, server, at),
            Figure(name, f"× {base}, p50", row.p50_ratio, server, at),
        ]
        for load, side in (("closed", row.closed), ("steady", row.steady)):
            figures += [
                Figure(name, US, value, server, {**at, "load": load, "percentile": percent})
                for percent, value in side.items()
            ]
        figures += [
            Figure(name, SHARE, value, server, {**at, "load": "steady", "from_us": from_us})
            for from_us, value in row.histogram.items()
        ]
    return tuple(figures)
