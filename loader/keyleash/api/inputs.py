"""Durations and times as callers give them."""

from __future__ import annotations

from typing import TypeVar

N = TypeVar("N", int, float, int | None, float | None)


def positive(name: str, value: N) -> N:
    """Return a number or None.

    Raises:
        ValueError: it is not over 0.
    """
    if value is not None and value <= 0:
        raise ValueError(f"`{name}` must be over 0")
    return value
