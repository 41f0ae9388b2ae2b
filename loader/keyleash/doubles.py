"""The numbers that guards store: doubles, which are exact to 2^53."""

from __future__ import annotations

import math

DOUBLE = 8
MOST = 2**53
"""The number from which doubles are not exact. A time that is not below it is corrupt."""


def whole(number: float) -> int:
    """Return a number as guards count; 0 for others, since a fenced agent may write its state."""
    return int(number) if abs(number) < MOST else 0


def is_time(number: float) -> bool:
    """Return whether a guard takes *number* for a time; it denies the call if not."""
    return number < MOST


def whole_us(number: float) -> int:
    """Return a time in whole µs, rounded up, as guards compare it; `MOST` for an invalid one."""
    return math.ceil(max(number, 0)) if is_time(number) else MOST


def is_count(number: float) -> bool:
    """Return whether a budget may have counted *number* calls; a guard denies the call if not."""
    return 0 <= number < MOST
