"""Of which keys a capture holds something, and where in them it stands."""

from __future__ import annotations

from dataclasses import dataclass

from keyleash.policy.model import Capture, Identity, Literal, Pattern
from keyleash.policy.regions import Region, RegionsTooComplexError, common_key, find_key

Place = tuple[int, bytes, bytes]
"""A capture's segment, counted from 0, and the literal text around it there."""


@dataclass(frozen=True, slots=True)
class Captured:
    """
    The patterns of an identity that have a capture of one name, in their order.

    Attributes:
        reached: All patterns that it is granted.
        denied: All that it is denied.
    """

    name: str
    patterns: tuple[Pattern, ...]
    reached: tuple[Pattern, ...]
    denied: tuple[Pattern, ...]

    @classmethod
    def of(cls, identity: Identity, name: str) -> Captured:
        """Those of *identity*."""
        granted = tuple(key for grant in identity.grants for key in grant.keys)
        capturing = tuple(one for one in granted if name in one.captures)
        denied = tuple(key for deny in identity.deny for key in deny.keys)
        return cls(name, capturing, granted, denied)

    def misses(self, other: Captured) -> bool:
        """Whether keys are reached of which *other* captures something, or something else."""
        if self.patterns == other.patterns:
            return False
        theirs = Region((self.reached, other.patterns), self.denied)
        try:
            return find_key(theirs, Region((self.patterns,))) is not None or any(
                self._place(one) != self._place(another)
                and common_key((one,), (another,)) is not None
                for one in self.patterns
                for another in other.patterns
            )
        except RegionsTooComplexError:
            return True

    def _place(self, pattern: Pattern) -> Place:
        before = after = b""
        at = next(n for n, part in enumerate(pattern.parts) if part == Capture(self.name))
        if at > 0 and isinstance(text := pattern.parts[at - 1], Literal):
            before = text.text.rpartition(b":")[2]
        if at + 1 < len(pattern.parts) and isinstance(text := pattern.parts[at + 1], Literal):
            after = text.text.partition(b":")[0]
        ahead = b"".join(one.text for one in pattern.parts[:at] if isinstance(one, Literal))
        return ahead.count(b":"), before, after
