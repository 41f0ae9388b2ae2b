"""Plot of latencies: distribution of the time per call under the steady load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.latencies import BUCKETS_PER_OCTAVE, SHARE, US
from benchmarks.support.plots import colours_of, new_figure, save
from benchmarks.support.section import Figure, Section
from matplotlib.ticker import LogLocator, NullLocator

STRIP = 0.12
"""Height of a line of percentiles below the histogram, relative to the histogram."""

MANY_MARKS = 300
"""An axis with a larger span has marks at powers of ten only."""


def draw_latency(section: Section, file: Path) -> Path:
    """Draw a row of panels per server and a column per work."""
    figures = section.figures
    servers = list(dict.fromkeys(item.server for item in figures))
    works = list(dict.fromkeys(str(item.at["work"]) for item in figures))
    figure, axes = new_figure(
        len(servers), len(works), width=11, height=1 + 2.4 * len(servers), sharex="col"
    )
    for server, row in zip(servers, axes, strict=True):
        row[0].set_ylabel(server)
        for work, panel in zip(works, row, strict=True):
            _draw_work(
                panel,
                [item for item in figures if (item.server, item.at["work"]) == (server, work)],
            )
    for work, top, bottom in zip(works, axes[0], axes[-1], strict=True):
        top.set_title(work, loc="left")
        bottom.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8)
    figure.suptitle(
        "Share of calls by time from their scheduled start; dots: p50, p99, p99.9", fontsize=10
    )
    return save(figure, file)


def _draw_work(panel: Any, figures: Sequence[Figure]) -> None:
    """Draw a histogram per kind, and its percentiles below."""
    kinds = list(dict.fromkeys(figure.series for figure in figures))
    shares = {kind: _steady(figures, kind, SHARE, "from_us") for kind in kinds}
    highest = max(share for own in shares.values() for share in own.values())
    for place, (kind, colour) in enumerate(colours_of(kinds).items()):
        steps = _steps(shares[kind])
        panel.stairs(*steps, color=colour, label=kind, fill=True, alpha=0.25)
        panel.stairs(*steps, color=colour, linewidth=1)
        percentiles = list(_steady(figures, kind, US, "percentile").values())
        below = [-highest * STRIP * (place + 1)] * len(percentiles)
        panel.plot(percentiles, below, "o-", color=colour, markersize=3.5, linewidth=1)
    panel.set_xscale("log")
    bounds = [bound for own in shares.values() for bound in own]
    narrow = max(bounds) < MANY_MARKS * min(bounds)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    panel.xaxis.set_major_formatter(_duration)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.tick_params(axis="x", labelsize=7)
    panel.set_yticks([0], [""])
    panel.set_ylim(-highest * STRIP * (len(kinds) + 1), highest * 1.05)


def _steps(shares: Mapping[float, float]) -> tuple[list[float], list[float]]:
    """Return the heights and bounds of all buckets, including empty ones."""
    places = {
        round(math.log2(from_us) * BUCKETS_PER_OCTAVE): share for from_us, share in shares.items()
    }
    buckets = range(min(places), max(places) + 1)
    bounds = [2 ** (place / BUCKETS_PER_OCTAVE) for place in (*buckets, buckets.stop)]
    return [places.get(place, 0) for place in buckets], bounds


def _steady(figures: Sequence[Figure], kind: str, unit: str, at: str) -> dict[float, float]:
    """Return medians of a kind's figures under the steady load, by *at*."""
    return {
        float(figure.at[at]): figure.value.median
        for figure in figures
        if (figure.series, figure.unit, figure.at.get("load")) == (kind, unit, "steady")
    }


def _duration(us: float, _place: int) -> str:
    """Format a mark of the axis."""
    return f"{us:g} µs" if us < 1e3 else f"{us / 1e3:g} ms"
