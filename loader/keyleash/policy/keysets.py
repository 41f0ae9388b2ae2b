"""The sets of keys that patterns match: matching, coverage, overlap, and example keys.

`KeySet` is a union of patterns; it answers coverage and overlap exactly, and in time that does not
grow with the square of the number of patterns. `Region` is an intersection of unions without
some exclusions; `find_key` returns a key that is in one region and not in another. Channels and
their patterns are of the same kind.

All answers rest on bytes that no pattern can contain: patterns are UTF-8, so a byte such as 0xFF is
in none of them, and what matches a capture of that byte matches the capture whatever its value.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from heapq import merge
from itertools import chain
from typing import NamedTuple

from keyleash.errors import KeyleashError
from keyleash.policy.model import AnySuffix, Capture, Literal, Pattern, PatternPart

MAX_STATES = 50_000
"""The most states that a search explores; policies that people write need a few hundred."""

_CACHED = 4096
_COLON = ord(":")
_READABLE = b"x0123456789abcdefghijklmnopqrstuvwyz-_."
"""The bytes to choose from, in this order, where any byte will do."""

Shape = tuple[PatternPart, ...]


def shape_of(pattern: Pattern) -> Shape:
    """Return the parts of a pattern without the names of captures: what it matches."""
    return tuple(Capture("") if isinstance(part, Capture) else part for part in pattern.parts)


class Segment(NamedTuple):
    """A segment of a pattern: a capture between `before` and `after`, or the literal `before`.

    Attributes:
        after: None if the segment has no capture.
        name: The name of the capture.
    """

    before: bytes
    after: bytes | None = None
    name: str = ""

    def matches(self, piece: bytes) -> bool:
        """Return whether a segment of a key matches."""
        if self.after is None:
            return piece == self.before
        return (
            len(piece) > len(self.before) + len(self.after)
            and piece.startswith(self.before)
            and piece.endswith(self.after)
        )


@lru_cache(_CACHED)
def segments_of(parts: tuple[PatternPart, ...]) -> tuple[tuple[Segment, ...], bool]:
    """Return the segments of a pattern, and whether `*` follows the last one, a literal."""
    segments = [Segment(b"")]
    for part in parts:
        before, after, name = segments[-1]
        match part:
            case Literal(text):
                first, *others = text.split(b":")
                segments[-1] = (
                    Segment(before + first)
                    if after is None
                    else Segment(before, after + first, name)
                )
                segments += map(Segment, others)
            case Capture(name):
                segments[-1] = Segment(before, b"", name)
            case AnySuffix():
                return tuple(segments), True
    return tuple(segments), False


def covers(wide: Pattern, narrow: Pattern) -> bool:
    """Return whether every key that matches *narrow* also matches *wide*."""
    return _set_of(wide).covers(narrow)


def overlaps(pattern: Pattern, other: Pattern) -> bool:
    """Return whether some key matches both patterns."""
    return _set_of(pattern).overlaps(other)


class KeySet:
    """The keys that at least one of some patterns matches.

    The patterns are indexed by segment: a question follows the segments of its own pattern and
    looks up what matches at each depth, instead of comparing the pattern with every other one.
    """

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self.patterns = tuple(patterns)
        self._root = _Node()
        for place, pattern in enumerate(self.patterns):
            segments, is_open = segments_of(pattern.parts)
            node = self._root
            for segment in segments[: len(segments) - is_open]:
                node = node.add(segment)
            ends = node.opens.setdefault(segments[-1].before, []) if is_open else node.ends
            ends.append(place)

    def covering(self, narrow: Pattern) -> Iterator[int]:
        """Return the places, in order, of the patterns that cover *narrow* by themselves."""
        segments, is_open = segments_of(narrow.parts)
        found: list[list[int]] = []
        nodes = [self._root]
        for segment in segments[: len(segments) - is_open]:
            found += (ends for node in nodes for ends in node.open_within(segment.before))
            nodes = [behind for node in nodes for behind in node.that_cover(segment)]
        for node in nodes:
            found += node.open_within(segments[-1].before) if is_open else [node.ends]
        return merge(*found)

    def covers(self, narrow: Pattern, counts: Callable[[int], bool] = lambda _place: True) -> bool:
        """
        Return whether every key that *narrow* matches is in the set.

        Patterns may do so together: `a`, `a{x}`, `a:*` and `a{x}:*` together cover `a*`.

        It follows the keys of *narrow* by segments, along with the patterns that still match them.
        A segment that *narrow* leaves open is either empty or not; past the first such segment
        no pattern matches both.

        Args:
            narrow: The pattern.
            counts: Return whether the pattern at a place is to be considered.
        """
        segments, is_open = segments_of(narrow.parts)
        pending = [(0, [self._root])]
        while pending:
            depth, nodes = pending.pop()
            for piece in _pieces(segments, is_open, depth):
                opens = (ends for node in nodes for ends in node.open_within(piece.before))
                if any(map(counts, chain.from_iterable(opens))):
                    continue
                left = [behind for node in nodes for behind in node.that_cover(piece)]
                may_end = depth + 1 >= len(segments)
                if may_end and not any(counts(end) for node in left for end in node.ends):
                    return False
                if is_open or not may_end:
                    pending.append((depth + 1, left))
        return True

    def overlaps(self, other: Pattern) -> bool:
        """Return whether some key that *other* matches is in the set."""
        segments, is_open = segments_of(other.parts)
        nodes = [self._root]
        for segment in segments[: len(segments) - is_open]:
            if any(node.has_open(segment) for node in nodes):
                return True
            nodes = [behind for node in nodes for behind in node.that_meet(segment)]
        if is_open:
            return any(node.continues_with(segments[-1].before) for node in nodes)
        return any(node.ends for node in nodes)


@lru_cache(_CACHED)
def _set_of(pattern: Pattern) -> KeySet:
    return KeySet((pattern,))


@dataclass(slots=True)
class _Node:
    """
    The patterns of a set that begin with certain segments.

    Attributes:
        following: The nodes behind the next segment, by its `before` and `after`.
        afters: The `after` of captures among them, by `before`.
        ends: The places of the patterns that end here.
        opens: The places of the patterns that end in a `*` here, by the literal before it.
        merged: The union of all nodes that follow a segment that is not empty, once computed.
    """

    following: dict[tuple[bytes, bytes | None], _Node] = field(default_factory=dict)
    afters: dict[bytes, set[bytes]] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    opens: dict[bytes, list[int]] = field(default_factory=dict)
    merged: _Node | None = None

    def add(self, segment: Segment, node: _Node | None = None) -> _Node:
        """Return the node behind *segment*; add *node*, or an empty one, if there is none."""
        before, after, _name = segment
        known = self.following.get((before, after))
        if known is None:
            known = self.following[before, after] = node or _Node()
            if after is not None:
                self.afters.setdefault(before, set()).add(after)
        return known

    def that_cover(self, segment: Segment) -> Iterator[_Node]:
        """Return the nodes behind segments that cover *segment*."""
        text, after, _name = segment
        if after is None and (text, None) in self.following:
            yield self.following[text, None]
        for end in range(len(text) + 1 if self.afters else 0):
            afters = self.afters.get(text[:end])
            if afters is None:
                continue
            # A capture takes at least one byte.
            rest, start = (text[end:], 1) if after is None else (after, 0)
            for place in range(start, len(rest) + 1):
                if rest[place:] in afters:
                    yield self.following[text[:end], rest[place:]]

    def that_meet(self, segment: Segment) -> Iterable[_Node]:
        """Return the nodes behind segments that share a text with *segment*."""
        if segment.after is None:
            return self.that_cover(segment)
        if segment.before or segment.after:
            return (node for edge, node in self.following.items() if _meet(segment, edge))
        if self.merged is None:
            self.merged = _union([node for edge, node in self.following.items() if edge != _EMPTY])
        return (self.merged,)

    def open_within(self, text: bytes) -> Iterator[list[int]]:
        """Return the patterns whose `*` follows a prefix of *text*."""
        for end in range(len(text) + 1 if self.opens else 0):
            if text[:end] in self.opens:
                yield self.opens[text[:end]]

    def has_open(self, segment: Segment) -> bool:
        """Return whether some pattern with a `*` here matches a key with *segment*."""
        if segment.after is None:
            return any(self.open_within(segment.before))
        return any(_agree(segment.before, start) for start in self.opens)

    def continues_with(self, start: bytes) -> bool:
        """Return whether some pattern matches a key that continues with *start*."""
        return any(_agree(start, item) for item in self.opens) or any(
            before.startswith(start) if after is None else _agree(start, before)
            for before, after in self.following
        )


_EMPTY = (b"", None)


def _meet(segment: Segment, edge: tuple[bytes, bytes | None]) -> bool:
    """Return whether some text matches both a segment with a capture and another segment."""
    before, after = edge
    if after is None or segment.after is None:
        return segment.matches(before)
    return _agree(segment.before, before) and (
        segment.after.endswith(after) or after.endswith(segment.after)
    )


def _agree(item: bytes, other: bytes) -> bool:
    """Return whether some text begins with both."""
    return item.startswith(other) or other.startswith(item)


def _union(nodes: list[_Node]) -> _Node:
    """Return a node with the patterns of all *nodes*, in no order."""
    whole = _Node()
    pending = [(whole, nodes)]
    while pending:
        into, some = pending.pop()
        following: dict[Segment, list[_Node]] = defaultdict(list)
        for node in some:
            into.ends += node.ends
            for start, places in node.opens.items():
                into.opens.setdefault(start, []).extend(places)
            for edge, behind in node.following.items():
                following[Segment(*edge)].append(behind)
        for segment, behinds in following.items():
            if len(behinds) == 1:
                into.add(segment, behinds[0])
            else:
                pending.append((into.add(segment), behinds))
    return whole


def _pieces(segments: Sequence[Segment], is_open: bool, depth: int) -> Iterator[Segment]:
    """Yield what the keys of a pattern may have as their segment at *depth*."""
    if depth < len(segments) - is_open:
        yield segments[depth]
        return
    start = segments[depth].before if depth < len(segments) else b""
    yield Segment(start)
    yield Segment(start, b"")


class RegionsTooComplexError(KeyleashError):
    """The patterns overlap in too many ways to be compared."""

    code = "regions-too-complex"


@dataclass(frozen=True, slots=True)
class Region:
    """
    The keys that match at least one pattern of every group, and none that is excluded.

    Attributes:
        groups: Without groups the region has every key, and with an empty group none.
        excluded: Patterns of keys that are not in it.
    """

    groups: tuple[tuple[Pattern, ...], ...]
    excluded: tuple[Pattern, ...] = ()

    def within(self, patterns: Iterable[Pattern]) -> Region:
        """Return the part of it that some of *patterns* match."""
        return Region((*self.groups, tuple(patterns)), self.excluded)


NOWHERE = Region(((),))


@lru_cache(_CACHED)
def find_key(inside: Region, outside: Region = NOWHERE) -> bytes | None:
    """
    Find a key that is in one region and not in the other.

    From each state only few bytes lead to different states: those that some pattern asks for,
    `:`, and any other. So every key can be tried, the shortest ones first.

    Returns:
        One of the shortest such keys; None if there is none, so that *outside* covers *inside*.

    Raises:
        RegionsTooComplexError: It was not found among the first `MAX_STATES`.
    """
    is_within = {*inside.groups} >= {*outside.groups} and {*inside.excluded} >= {*outside.excluded}
    if is_within or not all(inside.groups):
        return None
    automaton = _Automaton()
    wanted, unwanted = automaton.region(inside), automaton.region(outside)
    seen = {automaton.start}
    waiting = deque([(automaton.start, b"")])
    while waiting:
        state, key = waiting.popleft()
        if wanted.holds(state) and not unwanted.holds(state):
            return key
        if wanted.is_lost(state) or unwanted.is_certain(state):
            continue
        for byte, following in automaton.steps(state):
            if following not in seen:
                seen.add(following)
                waiting.append((following, key + bytes([byte])))
        if len(seen) > MAX_STATES:
            raise RegionsTooComplexError(
                "the key patterns overlap in too many ways to be compared",
                help="use fewer captures in patterns with the same prefix",
            )
    return None


def common_key(item: Iterable[Pattern], other: Iterable[Pattern]) -> bytes | None:
    """Return one of the shortest keys that a pattern of each matches; None if there is none."""
    return find_key(Region((tuple(item), tuple(other))))


class _Positions(NamedTuple):
    """
    Positions in patterns, as bits of a state of `_Automaton`.

    Attributes:
        every: All positions of the patterns.
        ends: Those where a pattern is matched.
        sinks: Those that no further byte leaves: a final `*`.
    """

    every: int = 0
    ends: int = 0
    sinks: int = 0

    def union(self, other: _Positions) -> _Positions:
        return _Positions(
            self.every | other.every, self.ends | other.ends, self.sinks | other.sinks
        )


@dataclass(frozen=True, slots=True)
class _RegionPositions:
    groups: tuple[_Positions, ...]
    excluded: _Positions

    def holds(self, state: int) -> bool:
        """Return whether the key so far is in the region."""
        return not state & self.excluded.ends and all(state & group.ends for group in self.groups)

    def is_lost(self, state: int) -> bool:
        """Return whether no longer key is in it."""
        return bool(state & self.excluded.sinks) or not all(
            state & group.every for group in self.groups
        )

    def is_certain(self, state: int) -> bool:
        """Return whether every longer key is in it."""
        return not state & self.excluded.every and all(state & group.sinks for group in self.groups)


class _Automaton:
    """
    A nondeterministic automaton of patterns; a state is a number with a bit for each position.

    A position waits for a byte. Those in `_stays` also remain on any byte, those in
    `_stays_in_segment` on any byte but `:`, and both may be skipped.
    """

    def __init__(self) -> None:
        self.start = 0
        self._asks: dict[int, int] = {}
        self._takes_segment = 0
        self._stays_in_segment = 0
        self._stays = 0
        self._positions: dict[Shape, _Positions] = {}
        self._free = 1

    def region(self, region: Region) -> _RegionPositions:
        """Add the patterns of a region, and return their positions."""
        groups = tuple(map(self._union, region.groups))
        return _RegionPositions(groups, self._union(region.excluded))

    def steps(self, state: int) -> Iterator[tuple[int, int]]:
        """Yield bytes and the states that follow, for all bytes that lead to different states."""
        asked = {byte: bits for byte, bits in self._asks.items() if state & bits}
        colon = asked.pop(_COLON, 0)
        for byte, bits in asked.items():
            yield byte, self._after(state, bits | self._takes_segment)
        if state & (self._takes_segment | self._stays_in_segment | self._stays):
            choices = chain(_READABLE, range(256))
            other = next((item for item in choices if item not in asked and item != _COLON), None)
            if other is not None:
                yield other, self._after(state, self._takes_segment)
        if state & (colon | self._stays):
            yield _COLON, self._skipped((state & colon) << 1 | state & self._stays)

    def _after(self, state: int, takes: int) -> int:
        remaining = state & (self._stays_in_segment | self._stays)
        return self._skipped((state & takes) << 1 | remaining)

    def _skipped(self, state: int) -> int:
        # Two positions that may be skipped are never adjacent, so one step is enough.
        return state | (state & (self._stays_in_segment | self._stays)) << 1

    def _union(self, patterns: Iterable[Pattern]) -> _Positions:
        return reduce(_Positions.union, map(self._add, patterns), _Positions())

    def _add(self, pattern: Pattern) -> _Positions:
        shape = shape_of(pattern)
        if shape in self._positions:
            return self._positions[shape]
        first = bit = self._free
        sink = 0
        for part in shape:
            match part:
                case Literal(text):
                    for byte in text:
                        self._asks[byte] = self._asks.get(byte, 0) | bit
                        bit <<= 1
                case Capture():
                    self._takes_segment |= bit
                    self._stays_in_segment |= bit << 1
                    bit <<= 2
                case AnySuffix():
                    self._stays |= bit
                    sink = bit
                    bit <<= 1
        self.start |= self._skipped(first)
        self._free = bit << 1
        self._positions[shape] = _Positions(self._free - first, bit, sink)
        return self._positions[shape]
