"""Bars (bounds on what was measured), and the spread of a value over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, and the least and greatest of them."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}–{self.greatest:.2f})"


def spread_of(values: Sequence[float]) -> Spread:
    """Put the values of all rounds together."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(values: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Each round's value by the same round's baseline: what drifts meanwhile drops out."""
    return spread_of([item / base for item, base in zip(values, baseline, strict=True)])


class Side(StrEnum):
    """On which side of its bound a measured number must be."""

    AT_MOST = "≤"
    AT_LEAST = "≥"


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise.

    Attributes:
        measured: Of what, in words.
        unit: What it is measured in, in words.
        value: The median of the rounds' ratios.
        aim: Better than the bound: not promised.
    """

    measured: str
    side: Side
    bound: float
    unit: str
    value: float
    aim: float | None = None

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self._reaches(self.bound)

    @property
    def reached(self) -> bool:
        """Whether there is an aim and it is reached."""
        return self.aim is not None and self._reaches(self.aim)

    def _reaches(self, mark: float) -> bool:
        return self.value <= mark if self.side is Side.AT_MOST else self.value >= mark


def bar_table(bars: Iterable[tuple[str, Bar, bool]]) -> str:
    """A line for each: server, what is promised, bound, aim, what was measured, the verdict.

    Args:
        bars: With the server's version before it and whether it was noisy behind it.
    """
    lines = [("server", "bar", "bound", "aim", "measured", "")]
    lines += [
        (
            version,
            f"{bar.measured}, × {bar.unit}",
            f"{bar.side} {bar.bound:g}",
            "" if bar.aim is None else f"{bar.aim:g}",
            f"{bar.value:.3f}",
            _verdict(bar, noisy=noisy),
        )
        for version, bar, noisy in bars
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _verdict(bar: Bar, *, noisy: bool) -> str:
    verdict = ("ok, aim reached" if bar.reached else "ok") if bar.met else "MISSED"
    return f"{verdict} (noisy: measure again)" if noisy else verdict
