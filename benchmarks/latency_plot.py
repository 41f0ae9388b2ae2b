"""The latencies as a plot: how often a call took how long under the steady load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.support.latencies import BUCKETS_PER_OCTAVE, SHARE, US
from benchmarks.support.plots import colours_of, new_figure, save
from benchmarks.support.section import Section

WIDER = 2 ** (1 / BUCKETS_PER_OCTAVE)


def draw_latency(section: Section, file: Path) -> Path:
    """A row of panels for each server, a column for each work, a stepped line for each kind."""
    figures = section.figures
    servers = list(dict.fromkeys(figure.server for figure in figures))
    works = list(dict.fromkeys(str(figure.at["work"]) for figure in figures))
    figure, axes = new_figure(
        len(servers), len(works), width=11, height=0.6 + 2.3 * len(servers), sharex="col"
    )
    for server, row in zip(servers, axes, strict=True):
        for work, panel in zip(works, row, strict=True):
            own = [one for one in figures if (one.server, one.at["work"]) == (server, work)]
            kinds = colours_of(list(dict.fromkeys(one.series for one in own)))
            for kind, colour in kinds.items():
                shares = {
                    float(one.at["from_us"]): one.value.median
                    for one in own
                    if (one.series, one.unit) == (kind, SHARE)
                }
                marks = {
                    float(one.at["percentile"]): one.value.median
                    for one in own
                    if (one.series, one.unit, one.at.get("load")) == (kind, US, "steady")
                }
                _histogram(panel, shares, marks, kind, colour)
            panel.set_xscale("log")
            panel.set_yticks([])
            panel.set_ylabel(server if work == works[0] else "")
    for work, top, bottom in zip(works, axes[0], axes[-1], strict=True):
        top.set_title(work, loc="left")
        bottom.set_xlabel("µs from when a call was due; dots: p50, p99, p99.9")
        bottom.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), fontsize=7)
    return save(figure, file)


def _histogram(
    panel: Any,
    shares: Mapping[float, float],
    marks: Mapping[float, float],
    label: str,
    colour: str,
) -> None:
    """One kind: shares of calls by lower bound of the bucket, and its percentiles as dots."""
    bounds = [*shares, max(shares) * WIDER]
    heights = list(shares.values())
    panel.stairs(heights, bounds, color=colour, label=label, linewidth=1.2)
    at = [max((one for one in shares if one <= mark), default=bounds[0]) for mark in marks.values()]
    panel.plot(
        list(marks.values()), [shares[bound] for bound in at], "o", color=colour, markersize=3
    )
