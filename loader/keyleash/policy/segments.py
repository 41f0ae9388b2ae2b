"""Patterns cut at each `:`: a capture never leaves its segment, and no segment has two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from keyleash.policy.model import AnySuffix, Capture, Literal, PatternPart


@dataclass(frozen=True, slots=True)
class Segment:
    """What one segment must be: `before` alone, or a capture between `before` and `after`."""

    before: bytes
    after: bytes = b""
    capture: str | None = None

    @property
    def shortest(self) -> int:
        return len(self.before) + len(self.after) + (self.capture is not None)

    def matches(self, piece: bytes) -> bool:
        if self.capture is None:
            return piece == self.before
        return (
            len(piece) >= self.shortest
            and piece.startswith(self.before)
            and piece.endswith(self.after)
        )

    def covers(self, narrow: Segment) -> bool:
        if narrow.capture is None:
            return self.matches(narrow.before)
        # What a capture takes may be anything, so a wide segment must leave it whole.
        return (
            self.capture is not None
            and narrow.before.startswith(self.before)
            and narrow.after.endswith(self.after)
        )

    def meets(self, other: Segment) -> bool:
        if self.capture is None:
            return other.matches(self.before)
        if other.capture is None:
            return self.matches(other.before)
        return agree(self.before, other.before) and (
            self.after.endswith(other.after) or other.after.endswith(self.after)
        )


@lru_cache(maxsize=4096)
def segments_of(parts: tuple[PatternPart, ...]) -> tuple[tuple[Segment, ...], bool]:
    """The pattern by segments, and whether the last is the beginning of any suffix."""
    segments = [Segment(b"")]
    for part in parts:
        match part:
            case Literal(text):
                first, *others = text.split(b":")
                last = segments[-1]
                segments[-1] = (
                    Segment(last.before + first)
                    if last.capture is None
                    else Segment(last.before, last.after + first, last.capture)
                )
                segments += [Segment(other) for other in others]
            case Capture(name):
                segments[-1] = Segment(segments[-1].before, b"", name)
            case AnySuffix():
                return tuple(segments), True
    return tuple(segments), False


def agree(one: bytes, other: bytes) -> bool:
    """Whether one of the two begins with the other, so that some text begins with both."""
    return one.startswith(other) or other.startswith(one)
