"""Group patterns by single bytes of their literal prefix, so a key is compared with few of them.

The bytes only select the patterns to try. A key with another prefix reaches some patterns as
well, and these do not match it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from keyleash.compiler.ir import Matcher

FEW = 2
"""Up to this many patterns are tried one by one: reading a byte costs a third of a pattern."""

DEEPEST = 24
"""The maximum depth of choices: Lua's parser nests up to 200 blocks."""

AT_HAND = 0.8
"""The weight of a choice by the byte that was read last, relative to one that reads another."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """A list of matchers, as a tree of choices.

    Attributes:
        singly: The matchers to try one by one, first: all of them, or those whose literal prefix
            ends before `position`.
        position: The byte of the key that selects among the others, from 1; 0 if none are left.
        bound: Keys whose byte is less try `lower`, the rest `upper`. A key that ends before
            `position` matches none of either.
        lower, upper: The other matchers; None if none are left.
    """

    singly: tuple[Matcher, ...]
    position: int = 0
    bound: int = 0
    lower: Grouping | None = None
    upper: Grouping | None = None


def grouped(matchers: Sequence[Matcher], read_at: int = 0, depth: int = 0) -> Grouping:
    """Halve *matchers* recursively until one is left or no byte distinguishes them.

    Args:
        matchers: At least one of them must match.
        read_at: The position of the byte that was read last.
        depth: The number of choices so far.
    """
    enough = 1 if depth else FEW
    splits = _splits(matchers, read_at) if len(matchers) > enough and depth < DEEPEST else ()
    best = min(splits, default=None)
    if best is None:
        return Grouping(tuple(matchers))
    _, position, bound = best
    reaching = [matcher for matcher in matchers if len(_beginning(matcher)) >= position]
    lower = [item for item in reaching if _beginning(item)[position - 1] < bound]
    upper = [item for item in reaching if _beginning(item)[position - 1] >= bound]
    return Grouping(
        singly=tuple(matcher for matcher in matchers if len(_beginning(matcher)) < position),
        position=position,
        bound=bound,
        lower=grouped(lower, position, depth + 1),
        upper=grouped(upper, position, depth + 1),
    )


def _splits(matchers: Sequence[Matcher], read_at: int) -> Iterator[tuple[float, int, int]]:
    """Yield every way to halve: its cost, the position, the bound.

    The cost is the number of matchers that are tried, summed over one key of each.
    """
    beginnings = [_beginning(matcher) for matcher in matchers]
    for position in range(1, max(map(len, beginnings)) + 1):
        counts = Counter(
            beginning[position - 1] for beginning in beginnings if len(beginning) >= position
        )
        reaching = counts.total()
        short = len(beginnings) - reaching
        weight = AT_HAND if position == read_at else 1
        present = sorted(counts)
        below = accumulate(counts[byte] for byte in present)
        for lower, (_, bound) in zip(below, pairwise(present), strict=False):
            tried = short * len(beginnings) + lower**2 + (reaching - lower) ** 2
            yield tried * weight, position, bound


def _beginning(matcher: Matcher) -> bytes:
    """Return the literal prefix of every key that *matcher* matches."""
    return matcher.beginning if matcher.text is None else matcher.text
