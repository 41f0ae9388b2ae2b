"""
Which keys two patterns have in common, and whether patterns leave none of another's out.

All answers are exact. They rest on the bytes that no pattern can name: patterns are
UTF-8, so a byte such as 0xFF stands in none of them, and what matches a capture that
holds it matches the capture whatever it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keyleash.policy.model import Pattern
from keyleash.policy.pattern_tree import PatternTree
from keyleash.policy.segments import Segment, agree, segments_of


def covers(wide: Pattern, narrow: Pattern) -> bool:
    """Whether every key that matches *narrow* also matches *wide*, whatever they capture."""
    wides, wide_open = segments_of(wide.parts)
    narrows, narrow_open = segments_of(narrow.parts)
    if not wide_open:
        return (
            not narrow_open
            and len(wides) == len(narrows)
            and all(w.covers(n) for w, n in zip(wides, narrows, strict=True))
        )
    # An open narrow pattern ends in a beginning too, which no whole segment of the wide covers.
    if len(wides) > len(narrows):
        return False
    *wholes, last = wides
    return narrows[len(wholes)].before.startswith(last.before) and all(
        w.covers(n) for w, n in zip(wholes, narrows, strict=False)
    )


def overlaps(one: Pattern, other: Pattern) -> bool:
    """Whether some key matches both patterns."""
    ones, one_open = segments_of(one.parts)
    others, other_open = segments_of(other.parts)
    if not one_open and not other_open:
        return len(ones) == len(others) and _all_meet(ones, others)
    if one_open and other_open:
        shorter, longer = sorted((ones, others), key=len)
    else:
        shorter, longer = (ones, others) if one_open else (others, ones)
    # The shorter pattern's `*` takes in whatever the longer one still asks for.
    last = len(shorter) - 1
    if last >= len(longer) or not _all_meet(shorter[:last], longer[:last]):
        return False
    start, segment = shorter[last].before, longer[last]
    if segment.capture is not None or (one_open and other_open and last == len(longer) - 1):
        return agree(segment.before, start)
    return segment.before.startswith(start)


def _all_meet(ones: Sequence[Segment], others: Sequence[Segment]) -> bool:
    return all(one.meets(other) for one, other in zip(ones, others, strict=True))


def covered_by(narrow: Pattern, wides: Iterable[Pattern]) -> bool:
    """
    Return whether every key that matches *narrow* matches one of *wides*; see `PatternTree`.

    They may share the work: `a`, `a{x}`, `a:*` and `a{x}:*` together cover `a*`.
    """
    return PatternTree((wide, None) for wide in wides).covers(narrow)
