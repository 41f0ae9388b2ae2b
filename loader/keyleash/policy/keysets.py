"""The sets of keys that patterns match: matching, coverage, overlap, and example keys.

`KeySet` is a union of patterns; it answers coverage and overlap exactly, and in time that does not
grow with the square of the number of patterns. `Region` is an intersection of unions, minus
excluded patterns; `find_key` returns a key that is in one region and not in another. Channels are
handled like keys.

Why this is exact: patterns are UTF-8, so no literal contains 0xFF. A pattern that matches a key
whose capture is that byte can match it only through a capture or `*`, so it matches whatever the
capture holds.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from heapq import merge
from itertools import chain
from typing import NamedTuple

from keyleash.errors import RegionsTooComplexError
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
    """A segment: `before{name}after`, or only the literal `before` if `after` is None."""

    before: bytes
    after: bytes | None = None
    name: str = ""

    def matches(self, text: bytes) -> bool:
        """Return whether *text*, a segment of a key, matches."""
        if self.after is None:
            return text == self.before
        return (
            len(text) > len(self.before) + len(self.after)
            and text.startswith(self.before)
            and text.endswith(self.after)
        )


@lru_cache(_CACHED)
def segments_of(parts: tuple[PatternPart, ...]) -> tuple[tuple[Segment, ...], bool]:
    """Return the segments of a pattern, and whether `*` follows the last one, a literal."""
    segments = [Segment(b"")]
    for part in parts:
        before, after, name = segments[-1]
        match part:
            case Literal(text):
                first, *rest = text.split(b":")
                segments[-1] = (
                    Segment(before + first)
                    if after is None
                    else Segment(before, after + first, name)
                )
                segments += map(Segment, rest)
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
    """The keys that at least one of several patterns matches.

    The patterns form a tree by segments. A query follows the segments of its own pattern and looks
    up the matching children at each depth, instead of comparing it with every pattern.
    """

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self.patterns = tuple(patterns)
        self._root = _Node()
        for index, pattern in enumerate(self.patterns):
            segments, is_open = segments_of(pattern.parts)
            node = self._root
            for segment in segments[: len(segments) - is_open]:
                node = node.add(segment)
            ends = node.opens.setdefault(segments[-1].before, []) if is_open else node.ends
            ends.append(index)

    def covering(self, narrow: Pattern) -> Iterator[int]:
        """Return the indexes, in order, of the patterns that each cover *narrow* alone."""
        segments, is_open = segments_of(narrow.parts)
        reached: list[list[int]] = []
        nodes = [self._root]
        for segment in segments[: len(segments) - is_open]:
            reached += (ends for node in nodes for ends in node.open_within(segment.before))
            nodes = [child for node in nodes for child in node.children_covering(segment)]
        for node in nodes:
            reached += node.open_within(segments[-1].before) if is_open else [node.ends]
        return merge(*reached)

    def covers(
        self, narrow: Pattern, is_considered: Callable[[int], bool] = lambda _index: True
    ) -> bool:
        """
        Return whether every key that *narrow* matches is in the set.

        Patterns may cover it together: `a`, `a{x}`, `a:*` and `a{x}:*` together cover `a*`.

        The search follows the segments of *narrow* with the nodes whose patterns match so far.
        From the `*` of *narrow* on, a segment is either empty or not, so each step has two cases.
        They do not multiply: after the segment of the `*`, an empty segment is covered only by an
        empty literal and any other only by a capture, so the cases divide the nodes between them.

        Args:
            is_considered: Return whether the pattern at an index is to be considered.
        """
        segments, is_open = segments_of(narrow.parts)
        pending = [(0, [self._root])]
        while pending:
            depth, nodes = pending.pop()
            for segment in _possible_segments(segments, is_open, depth):
                opens = (indexes for node in nodes for indexes in node.open_within(segment.before))
                if any(map(is_considered, chain.from_iterable(opens))):
                    continue
                remaining = [child for node in nodes for child in node.children_covering(segment)]
                ends = chain.from_iterable(node.ends for node in remaining)
                may_end = depth + 1 >= len(segments)
                if may_end and not any(map(is_considered, ends)):
                    return False
                if is_open or not may_end:
                    pending.append((depth + 1, remaining))
        return True

    def overlaps(self, other: Pattern) -> bool:
        """Return whether some key that *other* matches is in the set."""
        segments, is_open = segments_of(other.parts)
        nodes = [self._root]
        for segment in segments[: len(segments) - is_open]:
            if any(node.has_open(segment) for node in nodes):
                return True
            nodes = [child for node in nodes for child in node.children_overlapping(segment)]
        if is_open:
            return any(node.continues_with(segments[-1].before) for node in nodes)
        return any(node.ends for node in nodes)


@lru_cache(_CACHED)
def _set_of(pattern: Pattern) -> KeySet:
    return KeySet((pattern,))


_Label = tuple[bytes, bytes | None]
"""The `before` and `after` of a segment."""
_EMPTY: _Label = (b"", None)


@dataclass(slots=True)
class _Node:
    """
    The patterns of a set that begin with the same segments.

    Attributes:
        children: The nodes after one more segment, by its `before` and `after`.
        afters: The `after` of captures among them, by `before`.
        ends: The indexes of the patterns that end here.
        opens: The indexes of the patterns that end in a `*` here, by the literal before it.
        merged: The union of all children except that of the empty segment, once computed.
    """

    children: dict[_Label, _Node] = field(default_factory=dict)
    afters: dict[bytes, set[bytes]] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    opens: dict[bytes, list[int]] = field(default_factory=dict)
    merged: _Node | None = None

    def add(self, segment: Segment, node: _Node | None = None) -> _Node:
        """Return the child of *segment*; add *node*, or an empty one, if there is none."""
        before, after, _name = segment
        child = self.children.get((before, after))
        if child is None:
            child = self.children[before, after] = node or _Node()
            if after is not None:
                self.afters.setdefault(before, set()).add(after)
        return child

    def children_covering(self, segment: Segment) -> Iterator[_Node]:
        """Return the children whose segments cover *segment*."""
        text, after, _name = segment
        if after is None and (text, None) in self.children:
            yield self.children[text, None]
        for length in range(len(text) + 1 if self.afters else 0):
            before = text[:length]
            afters = self.afters.get(before)
            if afters is None:
                continue
            # A capture takes at least one byte.
            remaining, first = (text[length:], 1) if after is None else (after, 0)
            for start in range(first, len(remaining) + 1):
                if remaining[start:] in afters:
                    yield self.children[before, remaining[start:]]

    def children_overlapping(self, segment: Segment) -> Iterable[_Node]:
        """Return the children whose segments match some text that *segment* matches."""
        if segment.after is None:
            return self.children_covering(segment)
        if segment.before or segment.after:
            return (child for label, child in self.children.items() if _overlap(segment, label))
        if self.merged is None:
            self.merged = _union(
                [child for label, child in self.children.items() if label != _EMPTY]
            )
        return (self.merged,)

    def open_within(self, text: bytes) -> Iterator[list[int]]:
        """Return the patterns whose `*` follows a prefix of *text*."""
        for length in range(len(text) + 1 if self.opens else 0):
            if text[:length] in self.opens:
                yield self.opens[text[:length]]

    def has_open(self, segment: Segment) -> bool:
        """Return whether some pattern with a `*` here matches a key with *segment*."""
        if segment.after is None:
            return any(self.open_within(segment.before))
        return any(_share_extension(segment.before, start) for start in self.opens)

    def continues_with(self, start: bytes) -> bool:
        """Return whether some pattern matches a key that continues with *start*."""
        return any(_share_extension(start, item) for item in self.opens) or any(
            before.startswith(start) if after is None else _share_extension(start, before)
            for before, after in self.children
        )


def _overlap(segment: Segment, label: _Label) -> bool:
    """Return whether some text matches both a segment with a capture and another segment."""
    before, after = label
    if after is None or segment.after is None:
        return segment.matches(before)
    return _share_extension(segment.before, before) and (
        segment.after.endswith(after) or after.endswith(segment.after)
    )


def _share_extension(item: bytes, other: bytes) -> bool:
    """Return whether some text begins with both."""
    return item.startswith(other) or other.startswith(item)


def _union(nodes: list[_Node]) -> _Node:
    """Return a node with the patterns of all *nodes*, in no order."""
    union = _Node()
    pending = [(union, nodes)]
    while pending:
        target, sources = pending.pop()
        children: dict[Segment, list[_Node]] = defaultdict(list)
        for source in sources:
            target.ends += source.ends
            for start, indexes in source.opens.items():
                target.opens.setdefault(start, []).extend(indexes)
            for label, child in source.children.items():
                children[Segment(*label)].append(child)
        for segment, parts in children.items():
            if len(parts) == 1:
                target.add(segment, parts[0])
            else:
                pending.append((target.add(segment), parts))
    return union


def _possible_segments(segments: Sequence[Segment], is_open: bool, depth: int) -> Iterator[Segment]:
    """Yield the segments that keys of a pattern can have at *depth*."""
    if depth < len(segments) - is_open:
        yield segments[depth]
        return
    # At or after the `*`: nothing more in this segment, or at least one more byte.
    start = segments[depth].before if depth < len(segments) else b""
    yield Segment(start)
    yield Segment(start, b"")


@dataclass(frozen=True, slots=True)
class Region:
    """
    The keys that match at least one pattern of every group, and none that is excluded.

    Attributes:
        groups: No groups: every key. An empty group: no key.
        excluded: Patterns of keys that are not in the region.
    """

    groups: tuple[tuple[Pattern, ...], ...]
    excluded: tuple[Pattern, ...] = ()

    def within(self, patterns: Iterable[Pattern]) -> Region:
        """Return the part of the region that at least one of *patterns* matches."""
        return Region((*self.groups, tuple(patterns)), self.excluded)


NOWHERE = Region(((),))


@lru_cache(_CACHED)
def find_key(inside: Region, outside: Region = NOWHERE) -> bytes | None:
    """
    Find a key that is in one region and not in the other.

    The search is breadth-first over states. One byte of each kind is tried: each that a pattern
    asks for, `:`, and one other byte, which stands for all the rest.

    Returns:
        One of the shortest such keys; None if there is none, so that *outside* covers *inside*.

    Raises:
        RegionsTooComplexError: More than `MAX_STATES` states were found.
    """
    is_within = {*inside.groups} >= {*outside.groups} and {*inside.excluded} >= {*outside.excluded}
    if is_within or not all(inside.groups):
        return None
    automaton = _Automaton()
    wanted, unwanted = automaton.region(inside), automaton.region(outside)
    seen = {automaton.start}
    pending = deque([(automaton.start, b"")])
    while pending:
        state, key = pending.popleft()
        if wanted.holds(state) and not unwanted.holds(state):
            return key
        if wanted.is_lost(state) or unwanted.is_certain(state):
            continue
        for byte, following in automaton.steps(state):
            if following not in seen:
                seen.add(following)
                pending.append((following, key + bytes([byte])))
        if len(seen) > MAX_STATES:
            raise RegionsTooComplexError(
                "the key patterns overlap in too many ways to be compared",
                help="use fewer captures in patterns with the same prefix",
            )
    return None


def common_key(item: Iterable[Pattern], other: Iterable[Pattern]) -> bytes | None:
    """Return one of the shortest keys that match a pattern of each; None if there is none."""
    return find_key(Region((tuple(item), tuple(other))))


class _Positions(NamedTuple):
    """
    Positions in patterns, as bits of a state of `_Automaton`.

    Attributes:
        every: All positions of the patterns.
        ends: Positions at which the key matches a pattern.
        sinks: Positions of a final `*`: once active, they stay active.
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
        """Return whether the positions put every extension of the key outside the region."""
        return bool(state & self.excluded.sinks) or not all(
            state & group.every for group in self.groups
        )

    def is_certain(self, state: int) -> bool:
        """Return whether the positions put every extension of the key inside the region."""
        return not state & self.excluded.every and all(state & group.sinks for group in self.groups)


class _Automaton:
    """
    A nondeterministic automaton of patterns; a state is a number with a bit for each position.

    The bits of a state are its active positions. An active position takes a byte, which activates
    the next one. Those in `_stays` remain active on any byte, and those in `_stays_in_segment` on
    any byte but `:`; both may be skipped.

    Attributes:
        start: The state before the first byte.
        _asks: By byte, the positions of literals that take this byte.
        _takes_segment: Positions that take any byte but `:`, the first of a capture.
        _stays_in_segment: Positions of the further bytes of a capture.
        _stays: Positions of a final `*`.
        _free: The first bit that no pattern uses.
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
        wanted = {byte: bits for byte, bits in self._asks.items() if state & bits}
        colon = wanted.pop(_COLON, 0)
        for byte, bits in wanted.items():
            yield byte, self._after(state, bits | self._takes_segment)
        if state & (self._takes_segment | self._stays_in_segment | self._stays):
            choices = chain(_READABLE, range(256))
            other = next((item for item in choices if item not in wanted and item != _COLON), None)
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
