"""Patterns of keys or channels, learned from those that calls name, segment by segment.

A tree has a child for each literal segment. A segment is words and parts that may vary: numbers,
dates, UUIDs, other random text. Where five segments differ in one part only, they become one child
with a capture in the place of that part, and the trees below them are joined; parts that are equal
stay literal. At the end, many words with the same needs below them become a capture too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from keyleash.addons.learn.calls import RecordedCall
from keyleash.audit.read import MASK
from keyleash.commands import OperationClass
from keyleash.commands.spec import Needs
from keyleash.text import without_tokens

FEW = 5
"""Values of a shape that become a capture."""
MANY_WORDS = 20
"""Words with the same tree below them that become a capture."""
MOST_WORDS = 400
"""Words of one node that are learned."""
MOST_NODES = 50_000
"""Nodes of a tree, which is then folded; if more than half of them are left, it takes no more."""
MOST_VALUES = 10_000
"""Values of a capture that are counted, and keys whose place is remembered."""
MOST_SEGMENTS = 24
SAMPLES = 3

Need = tuple[Needs, str]
"""The classes that a call needs, and its command if a grant must name that."""
Hole = tuple[bytes, bytes]
"""The text before and after a capture in its segment."""
Label = bytes | Hole | tuple[bytes] | tuple[bytes, bytes, bytes]
"""A literal segment, one with a capture, the text before a final `*`, or before a doubtful one."""
Needed = frozenset[tuple[tuple[object, ...], OperationClass | None, str]]
"""What is needed below a node: segments (literals, or words around parts), class, command."""
DATE = "date"
OVERFLOW: Label = (b"", b"", b"")
UNSAYABLE = (
    "stands for keys that no literal can name, with a `*`, a token, or bytes that are not UTF-8"
)
MASKED = "is commented out: it stands for masked keys, or for keys that are named like these"
LEFT_OUT = "is commented out: it stands for words that differ in their needs, and are too many"
OF_A_DAY = "names a date: other days are denied"
ENDS_ALIKE = "has no literal beginning, so it allows names of others too"
FROM_ROOT = f"is commented out: it {ENDS_ALIKE}"
COMMENTED_OUT = (MASKED, LEFT_OUT, FROM_ROOT)

_DATE = rb"\d{4}-\d\d-\d\d(?:[T_ -]\d\d(?:[-.]?\d\d){0,2}Z?)?"
_UUID = rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_PART = re.compile(rb"(%b|%b)|[A-Za-z0-9]+" % (_UUID, _DATE))
_CODE = re.compile(rb"(?=[A-Fa-f]*\d)(?:[0-9a-f]{8,}|[0-9A-F]{8,})|[0-9A-HJKMNP-TV-Z]{26}")
_DIGITS = re.compile(rb"\d+")
_IS_DATE = re.compile(_DATE)
_NAMES_DATE = re.compile(r"\b20\d\d-?[01]\d-?[0-3]\d\b")
_RUNS = re.compile(rb"[a-z]+|[A-Z]+|\d+")
_SEPARATORS = re.compile(rb"[^A-Za-z0-9]+")
_IS_WORD = re.compile(rb"[A-Za-z]?[a-z]{2,}|[A-Z]{3,}|\d+")
_PART_OF_WORD = re.compile(rb"[A-Za-z0-9]*\Z")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@lru_cache(maxsize=4096)
def split(segment: bytes) -> tuple[bytes, ...]:
    """Return a segment as words (even places, perhaps empty) and parts that may vary (odd)."""
    if segment.isalpha() or segment.isdigit():
        return (segment,) if segment.isalpha() else (b"", segment, b"")
    pieces = _SEPARATORS.split(segment)
    is_opaque = any(map(_is_random, pieces)) and not any(map(_IS_WORD.fullmatch, pieces))
    if is_opaque or not _is_sayable(segment):
        return b"", segment, b""
    words, end = [], 0
    for start, stop in (span for part in _PART.finditer(segment) for span in _variable(part)):
        words += [segment[end:start], segment[start:stop]]
        end = stop
    return (*words, segment[end:])


def _variable(part: re.Match[bytes]) -> Iterator[tuple[int, int]]:
    if part[1] or _CODE.fullmatch(part[0]) or _is_random(part[0]):
        yield part.span()
        return
    for digits in _DIGITS.finditer(part[0]):
        yield part.start() + digits.start(), part.start() + digits.end()


def _is_random(text: bytes) -> bool:
    """Return whether letters and digits take turns as in no name."""
    if len(text) < 6 or text.isalpha():
        return False
    runs = _RUNS.findall(text)
    digits = sum(len(run) for run in runs if run.isdigit())
    return digits > 1 and len(runs) > max(3, 0.3 * len(text))


def _is_sayable(segment: bytes) -> bool:
    """Return whether a pattern can and may name a segment as a literal."""
    with suppress(UnicodeDecodeError):
        text = "" if segment.isalnum() else segment.decode()
        return "*" not in text and without_tokens(text) == text
    return False


@dataclass(slots=True)
class Support:
    """The calls that show a need; `commands` are some, with keys, `hosts` their addresses."""

    calls: int = 0
    last_ms: int = 0
    commands: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    hosts: set[str] = field(default_factory=set)

    def note(self, call: RecordedCall) -> None:
        """Count a call."""
        self.calls += 1
        self.last_ms = call.time_ms
        self.hosts.add(call.token_id.rpartition(":")[0])
        if len(self.commands) < SAMPLES:
            self.commands.setdefault(call.command, call.keys)

    def add(self, other: Support) -> None:
        """Count other calls too."""
        self.calls += other.calls
        self.last_ms = max(self.last_ms, other.last_ms)
        self.commands = {**other.commands, **self.commands}
        self.hosts |= other.hosts


@dataclass(slots=True, eq=False)
class _Node:
    """A place in the tree, after the same segments.

    Attributes:
        waiting: Segments with the same words, of which too few differ in one part.
        holes: The captures between the same words.
        values: Hashes of the values of its own capture.
        suffix: The end of the name of that capture.
        doubt: What a person has to know of its patterns.
        is_open: Whether all that begins with it is in this node.
        moved: The node that took its place.
    """

    children: dict[Label, _Node] = field(default_factory=dict)
    needs: dict[Need, Support] = field(default_factory=lambda: defaultdict(Support))
    waiting: dict[tuple[bytes, ...], list[bytes]] = field(default_factory=dict)
    holes: dict[tuple[bytes, ...], list[Hole]] = field(default_factory=dict)
    values: set[int] = field(default_factory=set)
    suffix: str = ""
    doubt: str = ""
    is_open: bool = False
    moved: _Node | None = None

    def known(self, segment: bytes) -> _Node | None:
        """Return the child for a segment, if there is one."""
        if self.is_open:
            return self
        node = self.children.get(segment)
        if node is None:
            holes = self.holes.get(split(segment)[::2], ())
            hole = next((hole for hole in holes if _is_within(segment, hole)), None)
            if hole is not None:
                node = self.children[hole]
                if len(node.values) < MOST_VALUES:
                    node.values.add(hash(segment))
        return node

    def child(self, segment: bytes) -> _Node:
        """Return the child for a segment; once enough segments differ in a part, their child."""
        node = self.known(segment)
        if node is None and self._makes_hole(segment):
            node = self.known(segment)
        return node or self.children.get(OVERFLOW) or self.children.setdefault(segment, _Node())

    def overflow(self) -> _Node:
        """Return the child for all that is not learned."""
        return self.children.setdefault(OVERFLOW, _Node(doubt=LEFT_OUT, is_open=True))

    def size(self) -> int:
        """Return the number of nodes from here on."""
        return 1 + sum(child.size() for child in self.children.values())

    def _makes_hole(self, segment: bytes) -> bool:
        """Make a capture for a segment and those that waited, if they are enough."""
        words = split(segment)
        if len(words) == 1:
            return False
        waiting = [*self.waiting.get(words[::2], ()), segment]
        similar, places, is_sayable = waiting, range(1, len(words), 2), _is_sayable(segment)
        for at in places:
            same = [item for item in waiting if _but(split(item), at) == _but(words, at)]
            # A number within a word is often a part of a name, such as `sha256`.
            is_apart = not (words[at - 1][-1:].isalpha() or words[at + 1][:1].isalpha())
            if len(same) >= FEW and is_apart:
                similar = same
        if similar is waiting and len(waiting) < MANY_WORDS and is_sayable:
            if len(self.waiting) >= MOST_WORDS:
                self.waiting.clear()
            self.waiting[words[::2]] = waiting
            return False
        differing = [
            at for at in places if len({split(item)[at] for item in similar}) > 1
        ] or places
        first, last = differing[0], differing[-1]
        hole = b"".join(words[:first]), b"".join(words[last + 1 :])
        is_date = first == last and _IS_DATE.fullmatch(words[first])
        self.join(hole, similar, DATE if is_date else "_id")
        self.waiting[words[::2]] = [item for item in waiting if item not in similar]
        self.holes.setdefault(words[::2], []).append(hole)
        if not is_sayable and len(similar) < FEW:
            self.children[hole].doubt = UNSAYABLE
        return True

    def join(self, hole: Hole, labels: Iterable[Label], suffix: str = "") -> None:
        """Make children one with a capture."""
        joined = self.children.setdefault(hole, _Node(suffix=suffix))
        labels = {label for label in labels if label != hole}
        for words, holes in self.holes.items():
            if not labels.isdisjoint(holes):
                self.holes[words] = [hole if item in labels else item for item in holes]
        for label in labels:
            other = self.children.pop(label, None)
            if other is not None:
                joined.take(other)
                if isinstance(label, bytes) and len(joined.values) < MOST_VALUES:
                    joined.values.add(hash(label))

    def take(self, other: _Node) -> None:
        """Add what another node has, and take its place."""
        other.moved = self
        self.values |= other.values
        self.suffix = self.suffix or other.suffix
        self.doubt = self.doubt or other.doubt
        for need, support in other.needs.items():
            self.needs[need].add(support)
        if self.is_open:
            for child in other.children.values():
                self.take(child)
            return
        for label, child in other.children.items():
            if isinstance(label, tuple):
                self.children.setdefault(label, _Node(is_open=len(label) != 2)).take(child)
        for words, holes in other.holes.items():
            for hole in [hole for hole in holes if hole not in self.holes.setdefault(words, [])]:
                self.holes[words].append(hole)
                waiting = self.waiting.get(words, ())
                self.join(hole, [item for item in waiting if _is_within(item, hole)])
        for label, child in other.children.items():
            if isinstance(label, bytes):
                self.child(label).take(child)

    def fold(self, *, is_root: bool = False) -> Needed:
        """Make captures of many words, or of some captures, with the same needs; return these.

        Words after the first `MOST_WORDS` are left out.
        """
        needed = {label: child.fold() for label, child in self.children.items()}
        similar: dict[tuple[int, Needed], list[Label]] = defaultdict(list)
        for label, below in needed.items():
            kind = FEW if isinstance(label, tuple) else MANY_WORDS
            # No capture matches an empty segment.
            if len(label) == 2 or (label and isinstance(label, bytes)):
                similar[kind, below].append(label)
        for (least, below), labels in similar.items():
            hole = _edges(labels)
            # A capture that begins the key and is all of its segment says nothing.
            if len(labels) >= least and not (is_root and hole == (b"", b"")):
                self.join(hole, labels)
                needed[hole] = needed.get(hole, frozenset()) | below
                covered = [
                    label
                    for label in self.children
                    if isinstance(label, bytes)
                    and _is_within(label, hole)
                    and needed[label] <= needed[hole]
                ]
                self.join(hole, covered)
        for label in [label for label in self.children if isinstance(label, bytes)][MOST_WORDS:]:
            self.overflow().take(self.children.pop(label))
            needed[OVERFLOW] = frozenset()
        own: set[tuple[tuple[object, ...], OperationClass | None, str]] = set()
        for classes, only in self.needs:
            own |= {((), cls, only) for cls in classes or (None,)}
        for label in self.children:
            place = split(label)[::2] if isinstance(label, bytes) else label
            own |= {((place, *path), cls, only) for path, cls, only in needed[label]}
        return frozenset(own)


def _but(words: tuple[bytes, ...], place: int) -> tuple[bytes, ...]:
    return words[:place] + words[place + 1 :]


def _is_within(segment: bytes, hole: Hole) -> bool:
    before, after = hole
    is_long = len(segment) > len(before) + len(after)
    return is_long and segment.startswith(before) and segment.endswith(after)


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
        doubt: What a person has to know of it.
    """

    text: str
    needs: dict[Need, Support]
    values: int = 0
    noun: str = ""
    doubt: str = ""


class KeyTree:
    """The patterns of keys."""

    def __init__(self) -> None:
        self._root = _Node()
        self._places: dict[tuple[bytes, bool, bool], _Node] = {}
        # Joined nodes still count, until the tree is folded.
        self._size = 1
        self._is_full = False

    def add(self, key: bytes, need: Need, call: RecordedCall, *, is_open: bool = False) -> None:
        """Count a call that names a key, or with *is_open* all that begins with it."""
        # A log that has the whole call masks nothing.
        place = key, is_open, call.argv is None
        node = self._places.get(place)
        if node is None:
            if len(self._places) >= MOST_VALUES:
                self._places.clear()
            node = self._places[place] = self._place(*place)
        while node.moved is not None:
            node = node.moved
        node.needs[need].note(call)

    def _place(self, key: bytes, is_open: bool, may_be_masked: bool) -> _Node:
        if self._size > MOST_NODES and not self._is_full:
            self._root.fold(is_root=True)
            self._size = self._root.size()
            self._is_full = self._size > MOST_NODES // 2
        mask = MASK.search(key) if may_be_masked else None
        *segments, last = (key[: mask.start()] if mask else key).split(b":")
        if len(segments) > MOST_SEGMENTS:
            segments, last, mask, is_open = segments[:MOST_SEGMENTS], b"", None, True
        is_open = is_open or bool(mask)
        node = top = self._root
        for place, segment in enumerate(segments if is_open else [*segments, last]):
            size = len(node.children)
            below = node.known(segment) if self._is_full else node.child(segment)
            self._size += len(node.children) - size
            if below is None:
                return top.overflow()
            node, top = below, top if place else below
        if not is_open or node.is_open:
            return node
        text = last if _is_sayable(last) else b""
        label: Label = (text, b"", b"") if mask else (text,)
        if label not in node.children:
            if self._is_full:
                return top.overflow()
            self._size += 1
            node.children[label] = _Node(doubt=MASKED if mask else "", is_open=True)
        return node.children[label]

    def patterns(self) -> Iterator[LearnedPattern]:
        """Yield the patterns, each with its calls; call it once, at the end."""
        self._root.fold(is_root=True)
        for node, path in _walk(self._root, _Path()):
            if node.needs:
                text = ":".join(path.texts)
                reads = any(OperationClass.READ in needs for needs, _ in node.needs)
                doubt = path.doubt or OF_A_DAY * bool(_NAMES_DATE.search(text))
                doubt = doubt or FROM_ROOT * (text == "*" and reads)
                yield LearnedPattern(text, node.needs, path.values, path.noun, doubt)


class _Path(NamedTuple):
    """The segments of a node, its captures, and the values of the first of these."""

    texts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    word: str = ""
    values: int = 0
    noun: str = ""
    doubt: str = ""


def _walk(node: _Node, path: _Path) -> Iterator[tuple[_Node, _Path]]:
    yield node, path
    for label, child in node.children.items():
        literal = _text(label if isinstance(label, bytes) else label[0])
        about = [path.word, *_NAME.findall(literal.lower())][-1].strip("_")
        below = path._replace(word=about)
        if isinstance(label, bytes):
            segment = literal
        elif len(label) != 2:
            segment, below = f"{literal}*", path._replace(doubt=child.doubt or path.doubt)
        else:
            name = _capture_name(about, child.suffix, path.names)
            segment = f"{literal}{{{name}}}{_text(label[1])}"
            doubt = child.doubt if len(child.values) < FEW else ""
            if not (label[0] or path.texts):
                doubt = ENDS_ALIKE if label[1] else FROM_ROOT
            below = path._replace(names=(*path.names, name), doubt=path.doubt or doubt)
            if not path.names:
                below = below._replace(values=len(child.values), noun=_singular(about))
        yield from _walk(child, below._replace(texts=(*path.texts, segment)))


def _capture_name(about: str, suffix: str, names: Sequence[str]) -> str:
    """Return a name for a capture after a word, which no other capture has."""
    name = suffix if suffix == DATE else f"{_singular(about)}{suffix}".strip("_") or "name"
    others = (f"{name}_{number}" for number in range(2, len(names) + 3))
    return next(item for item in (name, *others) if item not in names)


def _singular(noun: str) -> str:
    is_plural = len(noun) > 3 and not noun.endswith(("ss", "us", "ews"))
    return noun.removesuffix("s") if is_plural else noun


def _text(literal: bytes) -> str:
    return literal.decode().replace("{", "{{").replace("}", "}}")
