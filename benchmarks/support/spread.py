"""How the values of several rounds are put together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


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
