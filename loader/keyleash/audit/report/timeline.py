"""How often something happened, in pieces of time that become wider as the time becomes longer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000
WIDTHS_MS = (
    *(count * _SECOND for count in (1, 5, 15, 30)),
    *(count * _MINUTE for count in (1, 5, 15, 30)),
    *(count * _HOUR for count in (1, 3, 6, 12)),
    *(count * _DAY for count in (1, 7, 28, 364)),
)
"""Each is a multiple of the one before it, so that pieces can be joined."""
MAX_PIECES = 90
MIN_PIECES = 12


@dataclass(slots=True)
class Timeline:
    """
    Counts by piece of time and by name, of as many entries as come.

    Attributes:
        width_ms: How long a piece is.
        counts: By the number of the piece, which is its begin in *width_ms*, and the name.
    """

    width_ms: int = WIDTHS_MS[0]
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    _first: int | None = None
    _last: int = 0

    def add(self, time_ms: int, name: str, count: int = 1) -> None:
        """Count something that happened *count* times."""
        piece = time_ms // self.width_ms
        self._first = piece if self._first is None else min(self._first, piece)
        self._last = max(self._last, piece)
        self.counts[piece, name] += count
        while self._last - self._first >= MAX_PIECES and self.width_ms < WIDTHS_MS[-1]:
            self._widen()

    def _widen(self) -> None:
        wider_ms = next(width_ms for width_ms in WIDTHS_MS if width_ms > self.width_ms)
        factor = wider_ms // self.width_ms
        joined: Counter[tuple[int, str]] = Counter()
        for (piece, name), count in self.counts.items():
            joined[piece // factor, name] += count
        self.counts, self.width_ms = joined, wider_ms
        self._first, self._last = (self._first or 0) // factor, self._last // factor

    @property
    def pieces(self) -> range:
        """The numbers of all pieces, also of those in which nothing happened."""
        first = self._first or 0
        return range(first, max(self._last + 1, first + MIN_PIECES))
