"""Relations between the key sets of patterns: covers, overlaps, samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from keyleash.errors import KeyleashError
from keyleash.policy.model import AnySuffix, Capture, Literal, Pattern
from keyleash.policy.pattern_tree import PatternTree, Segment, agree, segments_of

# Regions: the keys that sets of patterns match, compared exactly.
#
# A pattern is a chain of places, each with one bit; all patterns of a question share one number,
# whose bits say where a key that is read byte by byte may stand in each of them. From one number
# only few bytes lead to different ones: those that some pattern asks for, `:`, and any other. So
# every key can be tried, and the shortest that answers the question is found first.
#
# Channels and their patterns are of the same kind.

MAX_STATES = 50_000
"""So many places in all patterns at once are looked at; policies that people write need a few
hundred."""

_KEPT = 4096
_COLON = ord(":")
_READABLE = b"x0123456789abcdefghijklmnopqrstuvwyz-_."
"""What stands for any other byte, if that may be chosen."""


class RegionsTooComplexError(KeyleashError):
    """The patterns overlap in too many ways to be compared."""

    code = "regions-too-complex"


@dataclass(frozen=True, slots=True)
class Region:
    """
    The keys that match at least one pattern of every group, and none that is excluded.

    Attributes:
        groups: Without groups every key is in it, and with an empty group none.
        excluded: Patterns of keys that are not in it.
    """

    groups: tuple[tuple[Pattern, ...], ...]
    excluded: tuple[Pattern, ...] = ()

    def within(self, patterns: Iterable[Pattern]) -> Region:
        """The part of it that some of *patterns* match."""
        return Region((*self.groups, tuple(patterns)), self.excluded)


NOWHERE = Region(((),))


@lru_cache(_KEPT)
def find_key(inside: Region, outside: Region = NOWHERE) -> bytes | None:
    """
    Find a key that is in one region and not in the other.

    Returns:
        One of the shortest; None if there is none, so that *outside* has all of *inside*.

    Raises:
        RegionsTooComplexError: It was not found among the first `MAX_STATES`.
    """
    if not all(inside.groups) or _is_plainly_within(inside, outside):
        return None
    chains = _Chains([*_patterns(inside), *_patterns(outside)])
    wanted, unwanted = chains.bits_of(inside), chains.bits_of(outside)
    seen = {chains.start}
    waiting = deque([(chains.start, b"")])
    while waiting:
        state, key = waiting.popleft()
        if wanted.holds(state) and not unwanted.holds(state):
            return key
        if wanted.is_lost(state) or unwanted.is_certain(state):
            continue
        for byte, following in chains.steps(state):
            if following not in seen:
                seen.add(following)
                waiting.append((following, key + bytes([byte])))
        if len(seen) > MAX_STATES:
            raise RegionsTooComplexError(
                "the key patterns overlap in too many ways to be compared",
                help="use fewer captures in patterns that begin alike",
            )
    return None


def common_key(item: Iterable[Pattern], other: Iterable[Pattern]) -> bytes | None:
    """One of the shortest keys that a pattern of each matches; None if there is none."""
    return find_key(Region((tuple(item), tuple(other))))


def _is_plainly_within(inside: Region, outside: Region) -> bool:
    """Whether *outside* asks for nothing that *inside* does not."""
    groups, excluded = set(inside.groups), set(inside.excluded)
    return groups.issuperset(outside.groups) and excluded.issuperset(outside.excluded)


def _patterns(region: Region) -> Iterator[Pattern]:
    for group in region.groups:
        yield from group
    yield from region.excluded


@dataclass(frozen=True, slots=True)
class _Bits:
    """
    A region in bits of `_Chains`.

    Attributes:
        ends: Of each group, where its patterns are matched.
        places: Of each group, all places of its patterns.
        sinks: Of each group, the places that no further byte leaves: final `*`.
        excluded_ends, excluded_places, excluded_sinks: The same of excluded patterns.
    """

    ends: tuple[int, ...]
    places: tuple[int, ...]
    sinks: tuple[int, ...]
    excluded_ends: int
    excluded_places: int
    excluded_sinks: int

    def holds(self, state: int) -> bool:
        """Whether the key as it is belongs to the region."""
        return not state & self.excluded_ends and all(state & end for end in self.ends)

    def is_lost(self, state: int) -> bool:
        """Whether no longer key belongs to it."""
        return bool(state & self.excluded_sinks) or not all(state & place for place in self.places)

    def is_certain(self, state: int) -> bool:
        """Whether every longer key belongs to it."""
        return not state & self.excluded_places and all(state & sink for sink in self.sinks)


@dataclass(slots=True)
class _Chain:
    """Where one pattern's places are among all bits."""

    places: int = 0
    end: int = 0
    sink: int = 0


@dataclass(slots=True)
class _Chains:
    """
    The places of all patterns, as bits of one number.

    A place waits for a byte. `stays` may be waited at through any byte without `:`, or any
    byte at all, and may be skipped.
    """

    patterns: Sequence[Pattern]
    start: int = 0
    _asks: dict[int, int] = field(default_factory=dict)
    _takes_segment: int = 0
    _stays_in_segment: int = 0
    _stays: int = 0
    _by_parts: dict[tuple[object, ...], _Chain] = field(default_factory=dict)
    _free: int = 1

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            shape = _shape(pattern)
            if shape not in self._by_parts:
                self._by_parts[shape] = self._add(shape)
        self.start = self._skipped(self.start)

    def bits_of(self, region: Region) -> _Bits:
        """The region in bits."""
        excluded = [self._by_parts[_shape(item)] for item in region.excluded]
        groups = [[self._by_parts[_shape(item)] for item in group] for group in region.groups]
        return _Bits(
            ends=tuple(_union(item.end for item in group) for group in groups),
            places=tuple(_union(item.places for item in group) for group in groups),
            sinks=tuple(_union(item.sink for item in group) for group in groups),
            excluded_ends=_union(item.end for item in excluded),
            excluded_places=_union(item.places for item in excluded),
            excluded_sinks=_union(item.sink for item in excluded),
        )

    def steps(self, state: int) -> Iterator[tuple[int, int]]:
        """A byte and where it leads, for all bytes that lead to different places."""
        asked = {byte: bits for byte, bits in self._asks.items() if state & bits}
        for byte, bits in asked.items():
            if byte != _COLON:
                yield byte, self._after(state, bits | self._takes_segment)
        other = next((item for item in _READABLE if item not in asked), None)
        if other is None:
            other = next(
                (item for item in range(256) if item not in asked and item != _COLON), None
            )
        if other is not None and state & (
            self._takes_segment | self._stays_in_segment | self._stays
        ):
            yield other, self._after(state, self._takes_segment)
        if state & (asked.get(_COLON, 0) | self._stays):
            taken = (state & asked.get(_COLON, 0)) << 1
            yield _COLON, self._skipped(taken | state & self._stays)

    def _after(self, state: int, takes: int) -> int:
        kept = state & (self._stays_in_segment | self._stays)
        return self._skipped((state & takes) << 1 | kept)

    def _skipped(self, state: int) -> int:
        # Two that may be skipped never stand side by side, so one step is enough.
        return state | (state & (self._stays_in_segment | self._stays)) << 1

    def _add(self, shape: tuple[object, ...]) -> _Chain:
        first = bit = self._free
        sink = 0
        for part in shape:
            match part:
                case bytes():
                    for byte in part:
                        self._asks[byte] = self._asks.get(byte, 0) | bit
                        bit <<= 1
                case "capture":
                    self._takes_segment |= bit
                    self._stays_in_segment |= bit << 1
                    bit <<= 2
                case _:
                    self._stays |= bit
                    sink = bit
                    bit <<= 1
        self.start |= first
        self._free = bit << 1
        return _Chain(places=self._free - first, end=bit, sink=sink)


def _shape(pattern: Pattern) -> tuple[object, ...]:
    """What a pattern matches, whatever its captures are called."""
    shape: list[object] = []
    for part in pattern.parts:
        match part:
            case Literal(text):
                shape.append(text)
            case Capture():
                shape.append("capture")
            case AnySuffix():
                shape.append("suffix")
    return tuple(shape)


def _union(bits: Iterable[int]) -> int:
    found = 0
    for bit in bits:
        found |= bit
    return found


# Which keys two patterns have in common, and whether patterns leave none of another's out.
#
# All answers are exact. They rest on the bytes that no pattern can name: patterns are
# UTF-8, so a byte such as 0xFF stands in none of them, and what matches a capture that
# holds it matches the capture whatever it holds.


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


def overlaps(pattern: Pattern, other: Pattern) -> bool:
    """Whether some key matches both patterns."""
    ones, one_open = segments_of(pattern.parts)
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
    return all(item.meets(other) for item, other in zip(ones, others, strict=True))


def covered_by(narrow: Pattern, wides: Iterable[Pattern]) -> bool:
    """
    Return whether every key that matches *narrow* matches one of *wides*; see `PatternTree`.

    They may share the work: `a`, `a{x}`, `a:*` and `a{x}:*` together cover `a*`.
    """
    return PatternTree((wide, None) for wide in wides).covers(narrow)
