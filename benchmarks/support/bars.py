"""Bars: what was promised, against what was measured."""

from __future__ import annotations

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
    """

    measured: str
    side: Side
    bound: float
    unit: str
    value: float

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        at_most = self.side is Side.AT_MOST
        return self.value <= self.bound if at_most else self.value >= self.bound


def bar_line(version: str, bar: Bar, *, noisy: bool) -> str:
    """The bar and how the server stands to it."""
    return (
        f"{version}: {bar.measured} {bar.side} {bar.bound:g} × {bar.unit}:"
        f" {bar.value:.2f} {'ok' if bar.met else 'MISSED'}"
        f"{' (noisy: measure again)' if noisy else ''}"
    )
