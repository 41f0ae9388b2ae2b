"""What was measured as a table for people, and as figures for programs."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.growth.shape import Curve, Growth
from benchmarks.support.section import Figure
from benchmarks.support.spread import Spread, spread_of

EXPONENT = "exponent"
WHOLE = 1_000
"""From here on numbers are written without decimals."""


def text_of(growth: Growth) -> str:
    """A table: for each curve its exponent, and a line per size."""
    lines = [f"{growth.name}: {growth.unit}, by {growth.grows}"]
    for curve in growth.curves:
        lines.append(f"  {curve.name}: exponent {exponent_text(curve)}")
        lines += [
            f"  {point.size:12,} {_text(spread_of(point.values)):>28}"
            f"   × the first {_text(curve.growth_to(point.size)):24}"
            f" best {curve.best_growth_to(point.size):.2f}"
            for point in curve.points
        ]
    lines += [f"  {remark}" for remark in growth.remarks]
    if growth.noisy:
        lines.append("  NOISE: others had a part of the cores; repeat this while nothing else runs")
    return "\n".join(lines)


def exponent_text(curve: Curve) -> str:
    """The exponent, and its spread where there is one."""
    return _text(curve.exponent, decimals=3)


def figures_of(growth: Growth, server: str) -> Iterable[Figure]:
    """Each curve's values and exponent."""
    for curve in growth.curves:
        at: dict[str, float | str] = {"curve": curve.name, "over": growth.grows}
        for point in curve.points:
            value = spread_of(point.values)
            yield Figure(growth.name, growth.unit, value, server, {**at, "size": point.size})
        yield Figure(growth.name, EXPONENT, curve.exponent, server, at)


def _text(spread: Spread, decimals: int = 2) -> str:
    def number(value: float) -> str:
        return f"{value:,.0f}" if value >= WHOLE else f"{value:.{decimals}f}"

    if spread.least == spread.greatest:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.least)} to {number(spread.greatest)})"
