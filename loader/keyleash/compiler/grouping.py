"""Many patterns by what they begin with, so that a key is compared with few of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from keyleash.compiler.ir import Matcher

FEW = 8
"""So many patterns are tried one by one: cutting off a key's beginning costs as much as two."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """How a list of matchers is tried.

    Attributes:
        singly: Those to be tried one by one, first.
        length: Of the beginning by which the others are grouped, in bytes; 0 if none are.
        groups: Beginnings of that length, and the matchers of keys that begin so.
    """

    singly: tuple[Matcher, ...]
    length: int = 0
    groups: tuple[tuple[bytes, tuple[Matcher, ...]], ...] = ()


def grouped(matchers: Sequence[Matcher]) -> Grouping:
    """Group *matchers* by as long a beginning as all patterns with one have."""
    beginnings = [len(one.beginning) for one in matchers if one.beginning]
    if len(beginnings) <= FEW:
        return Grouping(tuple(matchers))
    length = min(beginnings)
    groups: dict[bytes, list[Matcher]] = defaultdict(list)
    for one in matchers:
        if one.beginning:
            groups[one.beginning[:length]].append(one)
    return Grouping(
        singly=tuple(one for one in matchers if not one.beginning),
        length=length,
        groups=tuple((beginning, tuple(some)) for beginning, some in groups.items()),
    )
