"""Many patterns by single bytes of what they begin with: a key is compared with few of them.

The bytes decide only which patterns are tried, never whether one matches: a key that no
pattern begins like comes to some of them too, and they refuse it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from keyleash.compiler.ir import Matcher

FEW = 2
"""So many patterns in all are tried one by one: a first byte costs a third of trying a pattern."""

DEEPEST = 24
"""So many choices follow one another at most: Lua's parser nests up to 200 blocks."""

AT_HAND = 0.8
"""What a choice by the byte that was read last counts, against one that must read another."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """How a list of matchers is tried.

    Attributes:
        singly: Those to be tried one by one, first: all, or the ones that say nothing of the byte
            at `position`, since what they begin with ends before it.
        position: Of the byte of the key that chooses among the others, from 1; 0 if none are left.
        bound: Keys whose byte is less try `lower`, the rest `upper`. A key that ends before
            `position` matches none of either.
        lower, upper: The others; None if none are left.
    """

    singly: tuple[Matcher, ...]
    position: int = 0
    bound: int = 0
    lower: Grouping | None = None
    upper: Grouping | None = None


def grouped(matchers: Sequence[Matcher], known: int = 0, depth: int = 0) -> Grouping:
    """Halve *matchers*, and the halves again, until one is left or nothing tells them apart.

    Args:
        matchers: At least one of them must match.
        known: The position of the byte that was read last.
        depth: How many choices were made already.
    """
    enough = 1 if depth else FEW
    splits = _splits(matchers, known) if len(matchers) > enough and depth < DEEPEST else ()
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


def _splits(matchers: Sequence[Matcher], known: int) -> Iterator[tuple[float, int, int]]:
    """Every way to halve: its cost, the position, the bound.

    The cost is how many matchers are tried, summed over a key of each.
    """
    beginnings = [_beginning(matcher) for matcher in matchers]
    for position in range(1, max(map(len, beginnings)) + 1):
        counts = Counter(
            beginning[position - 1] for beginning in beginnings if len(beginning) >= position
        )
        reaching = counts.total()
        short = len(beginnings) - reaching
        weight = AT_HAND if position == known else 1
        present = sorted(counts)
        below = accumulate(counts[byte] for byte in present)
        for lower, (_, bound) in zip(below, pairwise(present), strict=False):
            tried = short * len(beginnings) + lower**2 + (reaching - lower) ** 2
            yield tried * weight, position, bound


def _beginning(matcher: Matcher) -> bytes:
    """What every key that *matcher* finds begins with."""
    return matcher.beginning if matcher.text is None else matcher.text
