"""Plots of a section's figures: a panel per growth, both axes logarithmic."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.growth.curves import EXPONENT
from benchmarks.support.plots import colours_of, new_figure, save
from benchmarks.support.section import Figure, Section
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, NullFormatter

COLUMNS = 3
PANEL_INCHES = (4.3, 3.1)
COMPACT = EngFormatter(sep="")
LEAST_SPAN = 4.0
"""Axes of values span at least this factor, so that small growth looks small."""


def draw(section: Section, folder: Path) -> list[Path]:
    """Write `growth.svg` and return its path."""
    panels: dict[str, list[Figure]] = defaultdict(list)
    for figure in section.figures:
        panels[figure.series].append(figure)
    rows = -(-len(panels) // COLUMNS)
    width, height = PANEL_INCHES
    canvas, axes = new_figure(rows, COLUMNS, width=COLUMNS * width, height=rows * height)
    for place, (name, figures) in zip(axes.flat, panels.items(), strict=False):
        _panel(place, name, figures)
    for unused in list(axes.flat)[len(panels) :]:
        unused.set_visible(False)
    canvas.suptitle(f"Growth of costs: {section.figures[0].server}")
    return [save(canvas, folder / f"{section.name}.svg")]


def _panel(axes: Axes, name: str, figures: Sequence[Figure]) -> None:
    curves: dict[str, list[Figure]] = defaultdict(list)
    exponents: dict[str, float] = {}
    for figure in figures:
        curve = str(figure.at["curve"])
        if figure.unit == EXPONENT:
            exponents[curve] = figure.value.median
        else:
            curves[curve].append(figure)
    powers = " to ".join(
        dict.fromkeys(f"{item:z.2f}" for item in (min(exponents.values()), max(exponents.values())))
    )
    axes.set_title(f"{name}: exponent {powers}")
    for curve, colour in colours_of(list(curves)).items():
        _line(axes, curves[curve], f"{curve}: {exponents[curve]:z.2f}", colour)
    # The scale is linear between 0 and 1.
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_yscale("log")
    _widen(axes)
    axes.set_xlabel(str(figures[0].at["over"]), fontsize=8)
    axes.set_ylabel(next(item.unit for item in figures if item.unit != EXPONENT), fontsize=8)
    axes.xaxis.set_major_formatter(COMPACT)
    axes.yaxis.set_major_formatter(COMPACT)
    axes.yaxis.set_minor_formatter(COMPACT if _decades(axes) < 1 else NullFormatter())
    axes.tick_params(which="both", labelsize=7)
    axes.legend(fontsize=6.5)


def _line(axes: Axes, points: Sequence[Figure], label: str, colour: str) -> None:
    sizes = [float(point.at["size"]) for point in points]
    medians = [point.value.median for point in points]
    axes.plot(sizes, medians, color=colour, marker="o", markersize=3, linewidth=1.2, label=label)
    axes.fill_between(
        sizes,
        [point.value.least for point in points],
        [point.value.greatest for point in points],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )


def _decades(axes: Axes) -> float:
    bottom, top = axes.get_ylim()
    return math.log10(top / bottom)


def _widen(axes: Axes) -> None:
    bottom, top = axes.get_ylim()
    missing = max(1.0, LEAST_SPAN / (top / bottom)) ** 0.5
    axes.set_ylim(bottom / missing, top * missing)
