"""Bars (bounds of measured values), and the spread of a value over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, minimum and maximum over rounds."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}–{self.greatest:.2f})"


def spread_of(values: Sequence[float]) -> Spread:
    """Return the spread of values."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(values: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Return ratios to the baseline of the same round, which cancels drift."""
    return spread_of([item / base for item, base in zip(values, baseline, strict=True)])


class Side(StrEnum):
    """The side of the bound on which the measured number must be."""

    AT_MOST = "≤"
    AT_LEAST = "≥"


@dataclass(frozen=True, slots=True)
class Bar:
    """A bound of a measured value.

    Attributes:
        measured: Description of the value.
        unit: The value that it is relative to.
        value: Median of the ratios of all rounds.
        aim: A better value that is not promised.
    """

    measured: str
    side: Side
    bound: float
    unit: str
    value: float
    aim: float | None = None

    @property
    def met(self) -> bool:
        """Return whether the bar is met."""
        return self._reaches(self.bound)

    @property
    def reached(self) -> bool:
        """Return whether an aim is reached."""
        return self.aim is not None and self._reaches(self.aim)

    def _reaches(self, mark: float) -> bool:
        return self.value <= mark if self.side is Side.AT_MOST else self.value >= mark


def bar_table(bars: Iterable[tuple[str, Bar, bool]]) -> str:
    """Return a table of bars.

    Args:
        bars: Server version, bar, and whether the run was noisy.
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
