"""Curves over a size, the exponent of their growth, and their report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.support.bars import Bar, Spread, ratios, spread_of
from benchmarks.support.section import Figure


@dataclass(frozen=True, slots=True)
class Point:
    """The values of all rounds at one size."""

    size: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A measured value at several sizes.

    Attributes:
        name: Name, such as `the key matches last`.
        points: In order of sizes, with the same rounds.
    """

    name: str
    points: tuple[Point, ...]

    @property
    def exponent(self) -> Spread:
        """Slope of log value over log size by least squares, round by round.

        0 is constant, 1 is linear. A size of 0 has no logarithm and is left out.
        """
        sized = [point for point in self.points if point.size > 0]
        sizes = [math.log(point.size) for point in sized]
        rounds = zip(*(point.values for point in sized), strict=True)
        return spread_of([_slope(sizes, [math.log(value) for value in item]) for item in rounds])

    @property
    def per_unit(self) -> float:
        """Slope of the medians over the size, by least squares."""
        return _slope(
            [point.size for point in self.points],
            [statistics.median(point.values) for point in self.points],
        )

    def at(self, size: int) -> Point:
        """Return the point of a size."""
        return next(point for point in self.points if point.size == size)

    def growth_to(self, size: int) -> Spread:
        """Return the ratio of the value at *size* to that at the first size, round by round."""
        return ratios(self.at(size).values, self.points[0].values)

    def best_growth_to(self, size: int) -> float:
        """Return the ratio of the least values, which have the least noise."""
        return min(self.at(size).values) / min(self.points[0].values)


@dataclass(frozen=True, slots=True)
class Growth:
    """Curves over one size, with bars and remarks.

    Attributes:
        name: Short, such as `patterns`.
        grows: Meaning of the size, such as `patterns in the identity`.
        unit: Of the values.
        noisy: Whether other processes used the cores.
    """

    name: str
    grows: str
    unit: str
    curves: tuple[Curve, ...]
    bars: tuple[Bar, ...] = ()
    remarks: tuple[str, ...] = ()
    noisy: bool = False

    def curve(self, name: str) -> Curve:
        """Return the curve of a name."""
        return next(curve for curve in self.curves if curve.name == name)


def divided(name: str, above: Curve, below: Curve) -> Curve:
    """Return the ratio of two curves, by size and round."""
    return Curve(
        name,
        tuple(
            Point(item.size, tuple(a / b for a, b in zip(item.values, other.values, strict=True)))
            for item, other in zip(above.points, below.points, strict=True)
        ),
    )


def _slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    return statistics.linear_regression(sizes, values).slope


EXPONENT = "exponent"
WHOLE = 1_000
"""Larger numbers are written without decimals."""


def text_of(growth: Growth) -> str:
    """Return a table: an exponent per curve, and a line per size."""
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
        lines.append("  NOISE: other processes used the cores; repeat the run")
    return "\n".join(lines)


def exponent_text(curve: Curve) -> str:
    """Return the exponent with its spread."""
    return _text(curve.exponent, decimals=3)


def figures_of(growth: Growth, server: str) -> Iterable[Figure]:
    """Yield the values and exponent of each curve."""
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
