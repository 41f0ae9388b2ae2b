"""Patterns of keys or channels, learned from those that calls name, segment by segment.

A tree has a child for each literal segment. Segments that differ in a number, a date, a UUID, a
ULID or another random part have one shape: the text before and after that part. From five values
on, a shape becomes one child with a capture, and the trees below its values are joined. At the
end, many words with the same tree below them become a capture too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from keyleash.audit.read import MASK
from keyleash.commands.spec import Needs
from keyleash.learn.calls import RecordedCall

FEW = 5
"""Values of a shape that become a capture."""
MANY_WORDS = 20
"""Words with the same tree below them that become a capture."""
MOST_WORDS = 400
"""Words of one node, so that the tree is bounded."""
MOST_VALUES = 10_000
"""Values of a capture that are counted, and keys whose place is remembered."""
MOST_SEGMENTS = 24
SAMPLES = 3

Need = tuple[Needs, str]
"""The classes that a call needs, and its command if a grant must name that."""
Hole = tuple[bytes, bytes]
"""The text before and after a capture in its segment."""
Label = bytes | Hole | tuple[bytes]
"""A literal segment, one with a capture, or the text before a final `*`."""
DATE = "date"

_DATE = rb"\d{4}-\d\d-\d\d(?:[T_ -]\d\d(?:[-.]?\d\d){0,2}Z?)?"
_UUID = rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_PART = re.compile(rb"(%b|%b)|[A-Za-z0-9]+" % (_UUID, _DATE))
_CODE = re.compile(rb"(?=[A-Fa-f]*\d)(?:[0-9a-f]{8,}|[0-9A-F]{8,})|[0-9A-HJKMNP-TV-Z]{26}")
_DIGITS = re.compile(rb"\d+")
_IS_DATE = re.compile(_DATE)
_RUNS = re.compile(rb"[a-z]+|[A-Z]+|\d+")
_PART_OF_WORD = re.compile(rb"[A-Za-z0-9]*\Z")
_FIRST_WORD = re.compile(rb"[A-Za-z]{3,}[^A-Za-z0-9]")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@lru_cache(maxsize=4096)
def shape_of(segment: bytes) -> tuple[Hole, str] | None:
    """Return the shape of a segment, and the end of its capture's name; None for a word."""
    if not _is_sayable(segment) or (_is_random(segment) and not _FIRST_WORD.match(segment)):
        return (b"", b""), "_id"
    spans = [span for part in _PART.finditer(segment) for span in _variable(part)]
    if not spans:
        return None
    start, end = spans[0][0], spans[-1][1]
    suffix = DATE if _IS_DATE.fullmatch(segment[start:end]) else "_id"
    return (segment[:start], segment[end:]), suffix


def _variable(part: re.Match[bytes]) -> Iterator[tuple[int, int]]:
    if part[1] or _CODE.fullmatch(part[0]) or _is_random(part[0]):
        yield part.span()
        return
    for digits in _DIGITS.finditer(part[0]):
        yield part.start() + digits.start(), part.start() + digits.end()


def _is_random(text: bytes) -> bool:
    """Return whether letters and digits take turns as in no name."""
    runs = _RUNS.findall(text)
    digits = sum(len(run) for run in runs if run.isdigit())
    return digits > 1 and len(text) > 5 and len(runs) > max(3, 0.3 * len(text))


def _is_sayable(segment: bytes) -> bool:
    """Return whether a pattern can name a segment as a literal."""
    try:
        return b"*" not in segment and (segment.isascii() or bool(segment.decode()))
    except UnicodeDecodeError:
        return False


@dataclass(slots=True)
class Support:
    """The calls that show a need; `commands` are some of them, with the keys of a call."""

    calls: int = 0
    last_ms: int = 0
    commands: dict[str, tuple[bytes, ...]] = field(default_factory=dict)

    def note(self, call: RecordedCall) -> None:
        """Count a call."""
        self.calls += 1
        self.last_ms = call.time_ms
        if len(self.commands) < SAMPLES:
            self.commands.setdefault(call.command, call.keys)

    def add(self, other: Support) -> None:
        """Count other calls too."""
        self.calls += other.calls
        self.last_ms = max(self.last_ms, other.last_ms)
        self.commands = {**other.commands, **self.commands}


@dataclass(slots=True, eq=False)
class _Node:
    """A place in the tree, after the same segments.

    Attributes:
        waiting: The segments of each shape that has too few values.
        values: Hashes of the values of its own capture.
        suffix: The end of the name of that capture.
        moved: The node that took its place.
    """

    children: dict[Label, _Node] = field(default_factory=dict)
    needs: dict[Need, Support] = field(default_factory=dict)
    waiting: dict[Label, list[bytes]] = field(default_factory=dict)
    values: set[int] = field(default_factory=set)
    suffix: str = ""
    moved: _Node | None = None

    def child(self, segment: bytes) -> _Node:
        """Return the child for a segment; once there are enough values, that of its shape."""
        found = self.children.get(segment)
        if found is not None:
            return found
        shape = shape_of(segment)
        if shape is None:
            words = [label for label in self.children if label and isinstance(label, bytes)]
            if len(words) >= MOST_WORDS:
                self.join(_edges(words), words)
            return self.children.setdefault(segment, _Node())
        hole, suffix = shape
        if hole not in self.children:
            waiting = self.waiting.setdefault(hole, [])
            if len(waiting) + 1 < FEW and _is_sayable(segment):
                waiting.append(segment)
                return self.children.setdefault(segment, _Node())
            self.join(hole, waiting, suffix)
        node = self.children[hole]
        if len(node.values) < MOST_VALUES:
            node.values.add(hash(segment))
        return node

    def join(self, hole: Hole, labels: Iterable[Label], suffix: str = "") -> None:
        """Make children one with a capture."""
        joined = self.children.setdefault(hole, _Node(suffix=suffix))
        for label in [label for label in labels if label != hole]:
            other = self.children.pop(label, None)
            if other is not None:
                joined.take(other)
                if isinstance(label, bytes):
                    joined.values.add(hash(label))
        self.waiting.pop(hole, None)

    def take(self, other: _Node) -> None:
        """Add what another node has, and take its place."""
        other.moved = self
        self.values |= other.values
        self.suffix = self.suffix or other.suffix
        for need, support in other.needs.items():
            self.needs.setdefault(need, Support()).add(support)
        for label, child in other.children.items():
            if isinstance(label, bytes):
                self.child(label).take(child)
            elif label in self.children:
                self.children[label].take(child)
            else:
                self.children[label] = child
                if len(label) == 2:
                    self.join(label, self.waiting.get(label, ()))

    def fold(self, *, is_root: bool = False) -> None:
        """Make captures of many words, or of some shapes, with the same tree below them."""
        alike: dict[tuple[int, bool, frozenset[Label]], list[Label]] = defaultdict(list)
        for label, child in self.children.items():
            child.fold()
            kind = FEW if isinstance(label, tuple) else MANY_WORDS
            # No capture matches an empty segment.
            if len(label) == 2 or (label and isinstance(label, bytes)):
                alike[kind, bool(child.needs), frozenset(child.children)].append(label)
        for (least, *_), labels in alike.items():
            hole = _edges(labels)
            # A capture that begins the key and is all of its segment says nothing.
            if len(labels) >= least and not (is_root and hole == (b"", b"")):
                self.join(hole, labels)


def _edges(labels: Sequence[Label]) -> Hole:
    """Return the text that all segments begin and end with, in whole words."""
    begins = [label if isinstance(label, bytes) else label[0] for label in labels]
    ends = [label if isinstance(label, bytes) else label[-1] for label in labels]
    before, after = _common(begins), _common([end[::-1] for end in ends])[::-1]
    if any(isinstance(label, bytes) and len(label) <= len(before + after) for label in labels):
        return b"", b""
    return before, after


def _common(texts: Sequence[bytes]) -> bytes:
    """Return the common beginning of texts, without a part of a word at its end."""
    least, most = min(texts), max(texts)
    end = next((at for at, byte in enumerate(least) if most[at : at + 1] != bytes([byte])), None)
    return _PART_OF_WORD.sub(b"", least[:end])


@dataclass(frozen=True, slots=True)
class LearnedPattern:
    """A learned pattern.

    Attributes:
        text: As in policies.
        needs: The calls, by what they need.
        values: The number of values of its first capture; 0 without one.
        noun: What these are.
    """

    text: str
    needs: dict[Need, Support]
    values: int = 0
    noun: str = ""


class KeyTree:
    """The patterns of keys."""

    def __init__(self) -> None:
        self._root = _Node()
        self._places: dict[tuple[bytes, bool], _Node] = {}

    def add(self, key: bytes, need: Need, call: RecordedCall, *, is_open: bool = False) -> None:
        """Count a call that names a key, or with *is_open* all that begins with it."""
        node = self._places.get((key, is_open))
        if node is None:
            if len(self._places) >= MOST_VALUES:
                self._places.clear()
            node = self._places[key, is_open] = self._place(key, is_open=is_open)
        while node.moved is not None:
            node = node.moved
        support = node.needs.get(need)
        if support is None:
            support = node.needs[need] = Support()
        support.note(call)

    def _place(self, key: bytes, *, is_open: bool) -> _Node:
        mask = MASK.search(key)
        if mask is not None:
            key, is_open = key[: mask.start()], True
        *segments, last = key.split(b":")
        if len(segments) > MOST_SEGMENTS:
            segments, last, is_open = segments[:MOST_SEGMENTS], b"", True
        node = self._root
        for segment in segments:
            node = node.child(segment)
        return node.children.setdefault((last,), _Node()) if is_open else node.child(last)

    def patterns(self) -> Iterator[LearnedPattern]:
        """Yield the patterns, each with its calls; call it once, at the end."""
        self._root.fold(is_root=True)
        for node, texts, _, values, noun in _walk(self._root, (), (), "", 0, ""):
            # No pattern names the empty key.
            if node.needs and texts != ("",):
                yield LearnedPattern(":".join(texts), node.needs, values, noun)


_Step = tuple[_Node, tuple[str, ...], tuple[str, ...], int, str]


def _walk(
    node: _Node, texts: tuple[str, ...], names: tuple[str, ...], word: str, values: int, noun: str
) -> Iterator[_Step]:
    """Yield each node with its segments, its captures, and the values of the first of these."""
    yield node, texts, names, values, noun
    for label, child in node.children.items():
        literal = _text(label if isinstance(label, bytes) else label[0])
        about = [word, *_NAME.findall(literal.lower())][-1].strip("_")
        if isinstance(label, bytes):
            yield from _walk(child, (*texts, _text(label)), names, about, values, noun)
        elif len(label) == 1:
            yield from _walk(child, (*texts, f"{_text(label[0])}*"), names, word, values, noun)
        else:
            name = _capture_name(about, child.suffix, names)
            segment = f"{_text(label[0])}{{{name}}}{_text(label[1])}"
            counted = (values, noun) if names else (len(child.values), _singular(about))
            yield from _walk(child, (*texts, segment), (*names, name), word, *counted)


def _capture_name(about: str, suffix: str, names: Sequence[str]) -> str:
    """Return a name for a capture after a word, which no other capture has."""
    name = suffix if suffix == DATE else f"{_singular(about)}{suffix}".strip("_") or "name"
    others = (f"{name}_{number}" for number in range(2, len(names) + 3))
    return next(item for item in (name, *others) if item not in names)


def _singular(noun: str) -> str:
    return noun.removesuffix("s") if len(noun) > 3 and not noun.endswith(("ss", "us")) else noun


def _text(literal: bytes) -> str:
    return literal.decode().replace("{", "{{").replace("}", "}}")
