"""
Patterns of keys and channels: how they are written, what they match, and which covers which.

`match` is the reference for the guard's Lua. It works on `:`-separated segments,
which a capture never leaves and of which each holds at most one capture; so a key
matches in one way or not at all, and no search is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from keyleash.errors import PolicyError, Problem, Span
from keyleash.policy.model import AnySuffix, Capture, Literal, Pattern, PatternPart
from keyleash.policy.problems import fail, quote

NOWHERE = Span("<pattern>", 1, 1)
CAPTURE_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_PIECE = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}*]|[^{}*]+")
_NAME_HELP = "name it with lower-case letters, digits and `_`, such as `{job_id}`"


def parse_pattern(source: str, span: Span = NOWHERE, thing: str = "key") -> Pattern:
    """
    Read a pattern.

    Args:
        source: Literal text, `{name}`, a final `*`, and `{{` or `}}` for a literal brace.
        span: Where it stands.
        thing: What it matches, a `key` or a `channel`.

    Raises:
        PolicyError: With everything that is wrong with it.
    """
    if not source:
        help = f'write what the {thing}s begin with and `*`, or "*" if every {thing} is meant'
        raise fail("empty-pattern", f"the {thing} pattern is empty", span, help)
    pieces = _PIECE.findall(source)
    problems = [
        Problem(code, f"{message} in the {thing} pattern {quote(source)}", span, help)
        for code, message, help in _flaws(pieces, thing)
    ]
    if problems:
        raise PolicyError(problems)
    return Pattern(source, _parts(pieces), span)


def _is_capture(piece: str) -> bool:
    return piece.startswith("{") and piece.endswith("}")


def _flaws(pieces: list[str], thing: str) -> Iterator[tuple[str, str, str]]:
    """Code, message and help of each thing wrong."""
    names: set[str] = set()
    crowded = False
    for place, piece in enumerate(pieces):
        if piece in ("{", "}"):
            partner = "never closed" if piece == "{" else "never opened"
            help = f"write `{piece * 2}` for a brace that is part of the {thing}"
            yield "unbalanced-brace", f"`{piece}` is {partner}", help
        elif _is_capture(piece):
            yield from _capture_flaws(piece, names, crowded)
            crowded = True
        elif piece != "*":
            crowded = crowded and ":" not in piece
        elif place < len(pieces) - 1:
            help = "end the pattern with it, or write `{name}` for one segment"
            yield "misplaced-wildcard", "`*` is not at the end", help
        elif crowded:
            help = "put a `:` between them, or write `*` alone"
            yield "crowded-segment", "a capture and `*` share one segment", help


def _capture_flaws(piece: str, names: set[str], crowded: bool) -> Iterator[tuple[str, str, str]]:
    name = piece[1:-1]
    if not name:
        yield "bad-capture-name", "`{}` has no name", _NAME_HELP
    elif not CAPTURE_NAME.fullmatch(name):
        yield "bad-capture-name", f"{quote(name)} is no name for a capture", _NAME_HELP
    elif name in names:
        help = "give each capture a name of its own"
        yield "repeated-capture", f"{quote(piece)} stands twice", help
    if crowded:
        help = "put a `:` between them, or write one capture for both"
        yield "crowded-segment", "two captures share one segment", help
    names.add(name)


def _parts(pieces: list[str]) -> tuple[PatternPart, ...]:
    parts: list[PatternPart] = []
    for piece in pieces:
        if piece == "*":
            parts.append(AnySuffix())
        elif _is_capture(piece):
            parts.append(Capture(piece[1:-1]))
        else:
            text = (piece[0] if piece in ("{{", "}}") else piece).encode()
            before = parts[-1] if parts else None
            if isinstance(before, Literal):
                parts[-1] = Literal(before.text + text)
            else:
                parts.append(Literal(text))
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class _Segment:
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

    def covers(self, narrow: _Segment) -> bool:
        if narrow.capture is None:
            return self.matches(narrow.before)
        # What a capture takes may be anything, so a wide segment must leave it whole.
        return (
            self.capture is not None
            and narrow.before.startswith(self.before)
            and narrow.after.endswith(self.after)
        )

    def meets(self, other: _Segment) -> bool:
        if self.capture is None:
            return other.matches(self.before)
        if other.capture is None:
            return self.matches(other.before)
        return _agree(self.before, other.before) and (
            self.after.endswith(other.after) or other.after.endswith(self.after)
        )


@lru_cache(maxsize=4096)
def _segments(parts: tuple[PatternPart, ...]) -> tuple[tuple[_Segment, ...], bool]:
    """The pattern by segments, and whether the last is the beginning of any suffix."""
    segments = [_Segment(b"")]
    for part in parts:
        match part:
            case Literal(text):
                first, *others = text.split(b":")
                last = segments[-1]
                segments[-1] = (
                    _Segment(last.before + first)
                    if last.capture is None
                    else _Segment(last.before, last.after + first, last.capture)
                )
                segments += [_Segment(other) for other in others]
            case Capture(name):
                segments[-1] = _Segment(segments[-1].before, b"", name)
            case AnySuffix():
                return tuple(segments), True
    return tuple(segments), False


def match(pattern: Pattern, key: bytes) -> dict[str, bytes] | None:
    """
    Say whether *key* matches, and what the captures hold.

    Returns:
        Captured bytes by capture name (empty for a pattern without captures), or None
        if the key does not match. Test with `is None`: an empty mapping is a match.
    """
    segments, open_ended = _segments(pattern.parts)
    pieces = key.split(b":", len(segments) - 1) if open_ended else key.split(b":")
    if len(pieces) != len(segments):
        return None
    if open_ended:
        if not pieces[-1].startswith(segments[-1].before):
            return None
        segments, pieces = segments[:-1], pieces[:-1]
    captured = {}
    for segment, piece in zip(segments, pieces, strict=True):
        if not segment.matches(piece):
            return None
        if segment.capture is not None:
            captured[segment.capture] = piece[len(segment.before) : len(piece) - len(segment.after)]
    return captured


def covers(wide: Pattern, narrow: Pattern) -> bool:
    """Whether every key that matches *narrow* also matches *wide*, whatever they capture."""
    wides, wide_open = _segments(wide.parts)
    narrows, narrow_open = _segments(narrow.parts)
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


def beginning(pattern: Pattern) -> bytes:
    """The bytes with which every key that matches begins, up to the first capture or `*`."""
    first = pattern.parts[0]
    return first.text if isinstance(first, Literal) else b""


def may_start_with(pattern: Pattern, prefix: bytes) -> bool:
    """Whether some key that matches *pattern* begins with *prefix*."""
    segments, open_ended = _segments(pattern.parts)
    pieces = prefix.split(b":")
    for place, segment in enumerate(segments[: len(pieces)]):
        if open_ended and place == len(segments) - 1:
            return _agree(segment.before, b":".join(pieces[place:]))
        if place == len(pieces) - 1:
            piece = pieces[place]
            return segment.before.startswith(piece) or (
                segment.capture is not None and piece.startswith(segment.before)
            )
        if not segment.matches(pieces[place]):
            return False
    return False


def may_overlap(one: Pattern, other: Pattern) -> bool:
    """Whether some key matches both patterns."""
    ones, one_open = _segments(one.parts)
    others, other_open = _segments(other.parts)
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
        return _agree(segment.before, start)
    return segment.before.startswith(start)


def _all_meet(ones: Sequence[_Segment], others: Sequence[_Segment]) -> bool:
    return all(one.meets(other) for one, other in zip(ones, others, strict=True))


def _agree(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)
