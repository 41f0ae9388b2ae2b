"""
Which keys two patterns have in common, and whether patterns leave none of another's out.

All answers are exact. They rest on the bytes that no pattern can name: patterns are
UTF-8, so a byte such as 0xFF stands in none of them, and what matches a capture that
holds it matches the capture whatever it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from keyleash.policy.model import Pattern
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
    Say whether every key that matches *narrow* matches one of *wides*.

    They may share the work: `a`, `a{x}`, `a:*` and `a{x}:*` together cover `a*`.

    It follows the keys of *narrow* segment by segment, along with the patterns that still
    match them. Where *narrow* leaves a segment open, it is empty or it is not. Past the first
    such segment no pattern goes both ways, so this takes time linear in the patterns.
    """
    segments, is_open = segments_of(narrow.parts)
    pending = [(0, [segments_of(wide.parts) for wide in wides])]
    while pending:
        depth, following = pending.pop()
        for piece in _pieces(segments, is_open, depth):
            if any(
                wide_open and len(wide) == depth + 1 and piece.before.startswith(wide[-1].before)
                for wide, wide_open in following
            ):
                continue
            left = [
                (wide, wide_open)
                for wide, wide_open in following
                if depth < len(wide) - wide_open and wide[depth].covers(piece)
            ]
            may_end = depth + 1 >= len(segments)
            if may_end and not any(len(wide) == depth + 1 for wide, _ in left):
                return False
            if is_open or not may_end:
                pending.append((depth + 1, left))
    return True


def _pieces(segments: Sequence[Segment], is_open: bool, depth: int) -> Iterator[Segment]:
    """What the keys of a pattern may have as their segment at *depth*."""
    if depth < len(segments) - is_open:
        yield segments[depth]
        return
    start = segments[depth].before if depth < len(segments) else b""
    yield Segment(start)
    yield Segment(start, b"", "")
