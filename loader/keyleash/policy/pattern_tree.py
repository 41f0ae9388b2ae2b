"""An index of patterns, searched by segments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import merge
from typing import Generic, NamedTuple, TypeVar

from keyleash.policy.model import AnySuffix, Capture, Literal, Pattern, PatternPart


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


def agree(item: bytes, other: bytes) -> bool:
    """Whether one of the two begins with the other, so that some text begins with both."""
    return item.startswith(other) or other.startswith(item)


# Many patterns at once, by their segments: which of them cover or meet another one.
#
# To compare a pattern with each of a thousand takes a thousand steps for each of a thousand.
# Here a question follows the segments of its own pattern, and looks up at each depth what may
# stand there.

Owner = TypeVar("Owner")


class Entry(NamedTuple, Generic[Owner]):
    """A pattern of a tree, in the order of addition, and whose it is."""

    number: int
    pattern: Pattern
    owner: Owner


@dataclass(slots=True)
class _Node(Generic[Owner]):
    """
    What patterns go on with behind the segments that lead here.

    Attributes:
        literals: The segments without a capture.
        captures: Those with one, by what stands before it, and then by what stands after it.
        ends: The patterns that end here.
        opens: The patterns that go on with `*`, by what stands before that.
    """

    literals: dict[bytes, _Node[Owner]] = field(default_factory=dict)
    captures: dict[bytes, dict[bytes, _Node[Owner]]] = field(default_factory=dict)
    ends: list[Entry[Owner]] = field(default_factory=list)
    opens: dict[bytes, list[Entry[Owner]]] = field(default_factory=dict)

    def behind(self, segment: Segment) -> _Node[Owner]:
        """The node behind *segment*, made if there is none."""
        if segment.capture is None:
            return self.literals.setdefault(segment.before, _Node())
        return self.captures.setdefault(segment.before, {}).setdefault(segment.after, _Node())

    def that_cover(self, piece: Segment) -> Iterator[_Node[Owner]]:
        """Return the nodes behind segments that cover *piece*."""
        text = piece.before
        if piece.capture is None and text in self.literals:
            yield self.literals[text]
        if not self.captures:
            return
        for end in range(len(text) + 1):
            afters = self.captures.get(text[:end])
            if afters is None:
                continue
            # A capture takes one byte at least.
            rest, start = (text[end:], 1) if piece.capture is None else (piece.after, 0)
            for place in range(start, len(rest) + 1):
                if rest[place:] in afters:
                    yield afters[rest[place:]]

    def that_meet(self, piece: Segment) -> Iterator[_Node[Owner]]:
        """Return the nodes behind segments that have a text in common with *piece*."""
        if piece.capture is None:
            yield from self.that_cover(piece)
            return
        for text, node in self.literals.items():
            if piece.matches(text):
                yield node
        for before, afters in self.captures.items():
            for after, node in afters.items():
                if piece.meets(Segment(before, after, "")):
                    yield node

    def open_within(self, text: bytes) -> Iterator[list[Entry[Owner]]]:
        """Return the patterns whose `*` stands behind a beginning of *text*, by that."""
        for end in range(len(text) + 1 if self.opens else 0):
            if text[:end] in self.opens:
                yield self.opens[text[:end]]

    def goes_on_with(self, start: bytes) -> bool:
        """Return whether some pattern matches a key that goes on with *start*."""
        return (
            any(agree(start, item) for item in self.opens)
            or any(agree(start, capture) for capture in self.captures)
            or any(literal.startswith(start) for literal in self.literals)
        )


def _always(_entry: Entry[Owner]) -> bool:
    return True


class PatternTree(Generic[Owner]):
    """Patterns, each with an owner."""

    def __init__(self, entries: Iterable[tuple[Pattern, Owner]] = ()) -> None:
        self._root: _Node[Owner] = _Node()
        self._count = 0
        self._unions: dict[int, _Node[Owner]] = {}
        for pattern, owner in entries:
            self.add(pattern, owner)

    def add(self, pattern: Pattern, owner: Owner) -> None:
        self._unions.clear()
        segments, is_open = segments_of(pattern.parts)
        node = self._root
        for segment in segments[: len(segments) - is_open]:
            node = node.behind(segment)
        ending = node.opens.setdefault(segments[-1].before, []) if is_open else node.ends
        ending.append(Entry(self._count, pattern, owner))
        self._count += 1

    def covers(self, narrow: Pattern, counts: Callable[[Entry[Owner]], bool] = _always) -> bool:
        """
        Return whether every key that *narrow* matches is matched by one of the patterns.

        They may share the work: `a`, `a{x}`, `a:*` and `a{x}:*` together cover `a*`.

        It follows the keys of *narrow* segment by segment, along with the patterns that still
        match them. Where *narrow* leaves a segment open, it is empty or it is not. Past the first
        such segment no pattern goes both ways.

        Args:
            counts: Whether an entry is one of the patterns that are asked.
        """
        segments, is_open = segments_of(narrow.parts)
        pending = [(0, [self._root])]
        while pending:
            depth, nodes = pending.pop()
            for piece in _pieces(segments, is_open, depth):
                if any(
                    counts(item)
                    for node in nodes
                    for some in node.open_within(piece.before)
                    for item in some
                ):
                    continue
                left = [behind for node in nodes for behind in node.that_cover(piece)]
                may_end = depth + 1 >= len(segments)
                if may_end and not any(counts(end) for node in left for end in node.ends):
                    return False
                if is_open or not may_end:
                    pending.append((depth + 1, left))
        return True

    def that_cover(self, narrow: Pattern) -> Iterator[Entry[Owner]]:
        """Return the patterns that cover *narrow* by themselves, in the order of addition."""
        segments, is_open = segments_of(narrow.parts)
        found: list[list[Entry[Owner]]] = []
        nodes = [self._root]
        for segment in segments[: len(segments) - is_open]:
            found += [some for node in nodes for some in node.open_within(segment.before)]
            nodes = [behind for node in nodes for behind in node.that_cover(segment)]
        for node in nodes:
            found += node.open_within(segments[-1].before) if is_open else [node.ends]
        # Each of them is in that order.
        return merge(*found, key=lambda item: item.number)

    def overlaps(self, other: Pattern) -> bool:
        """Return whether some key that *other* matches is matched by one of the patterns."""
        segments, is_open = segments_of(other.parts)
        pending = [(0, self._root)]
        while pending:
            depth, node = pending.pop()
            if depth == len(segments):
                if node.ends:
                    return True
                continue
            segment = segments[depth]
            if is_open and depth == len(segments) - 1:
                if node.goes_on_with(segment.before):
                    return True
                continue
            if segment.capture is None:
                is_met = any(True for _ in node.open_within(segment.before))
            else:
                is_met = any(agree(segment.before, item) for item in node.opens)
            if is_met:
                return True
            pending += [(depth + 1, behind) for behind in self._that_meet(node, segment)]
        return False

    def _that_meet(self, node: _Node[Owner], piece: Segment) -> Iterable[_Node[Owner]]:
        """Return nodes whose patterns are those behind segments that meet *piece*."""
        if piece.capture is None or piece.before or piece.after:
            return node.that_meet(piece)
        # A whole segment: it meets all that are not empty. They are followed as one from here.
        union = self._unions.get(id(node))
        if union is None:
            union = self._unions[id(node)] = _union(list(node.that_meet(piece)))
        return (union,)


def _union(nodes: list[_Node[Owner]]) -> _Node[Owner]:
    """Return a node behind which are the patterns of all of *nodes*, in no order."""
    whole: _Node[Owner] = _Node()
    pending = [(whole, nodes)]
    while pending:
        into, some = pending.pop()
        literals: dict[bytes, list[_Node[Owner]]] = {}
        captures: dict[tuple[bytes, bytes], list[_Node[Owner]]] = {}
        for node in some:
            into.ends += node.ends
            for start, entries in node.opens.items():
                into.opens.setdefault(start, []).extend(entries)
            for text, behind in node.literals.items():
                literals.setdefault(text, []).append(behind)
            for before, afters in node.captures.items():
                for after, behind in afters.items():
                    captures.setdefault((before, after), []).append(behind)
        for text, alike in literals.items():
            into.literals[text] = alike[0] if len(alike) == 1 else _Node()
            if len(alike) > 1:
                pending.append((into.literals[text], alike))
        for (before, after), alike in captures.items():
            behind = alike[0] if len(alike) == 1 else _Node()
            into.captures.setdefault(before, {})[after] = behind
            if len(alike) > 1:
                pending.append((behind, alike))
    return whole


def _pieces(segments: Sequence[Segment], is_open: bool, depth: int) -> Iterator[Segment]:
    """What the keys of a pattern may have as their segment at *depth*."""
    if depth < len(segments) - is_open:
        yield segments[depth]
        return
    start = segments[depth].before if depth < len(segments) else b""
    yield Segment(start)
    yield Segment(start, b"", "")
