"""Bars: what was promised, against what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


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
