"""Patterns of keys and channels, such as `jobs:{job_id}:*`: parsing and matching."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from keyleash.errors import PolicyError, Problem, Span
from keyleash.policy.keysets import Segment, overlaps, segments_of
from keyleash.policy.model import AnySuffix, Capture, Literal, Pattern, PatternPart
from keyleash.policy.problems import fail, quote

NOWHERE = Span("<pattern>", 1, 1)
CAPTURE_NAME = re.compile(r"[a-z_][a-z0-9_]*")
MAX_SEGMENTS = 128
"""Patterns are compared with each other by their segments."""
_PIECE = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}*]|[^{}*]+")
_NAME_HELP = "name it with lower-case letters, digits and `_`, such as `{job_id}`"


def parse_pattern(source: str, span: Span = NOWHERE, thing: str = "key") -> Pattern:
    """
    Parse a pattern.

    Args:
        source: Literal text, `{name}`, a final `*`, and `{{` or `}}` for a literal brace.
        span: Its place in the document.
        thing: What it matches: `key` or `channel`.

    Raises:
        PolicyError: With every problem of the pattern.
    """
    if not source:
        help = f'write a prefix and `*`, or "*" for every {thing}'
        raise fail("empty-pattern", f"the {thing} pattern is empty", span, help)
    if source.count(":") >= MAX_SEGMENTS:
        message = f"the {thing} pattern has more than {MAX_SEGMENTS} segments"
        raise fail("long-pattern", message, span, "shorten it; `:` separates segments")
    pieces = _PIECE.findall(source)
    problems = [
        Problem(code, f"{message} in the {thing} pattern {quote(source)}", span, help)
        for code, message, help in _flaws(pieces, thing)
    ]
    if problems:
        raise PolicyError(problems)
    return Pattern(source, _joined(map(_part, pieces)), span)


def _is_capture(piece: str) -> bool:
    return piece.startswith("{") and piece.endswith("}")


def _flaws(pieces: list[str], thing: str) -> Iterator[tuple[str, str, str]]:
    """Yield the code, message and help of each problem."""
    names: set[str] = set()
    has_capture = False  # in this segment
    for place, piece in enumerate(pieces):
        if piece in ("{", "}"):
            partner = "never closed" if piece == "{" else "never opened"
            help = f"write `{piece * 2}` for a brace that is part of the {thing}"
            yield "unbalanced-brace", f"`{piece}` is {partner}", help
        elif _is_capture(piece):
            name = piece[1:-1]
            if not name:
                yield "bad-capture-name", "`{}` has no name", _NAME_HELP
            elif not CAPTURE_NAME.fullmatch(name):
                yield "bad-capture-name", f"{quote(name)} is not a valid capture name", _NAME_HELP
            elif name in names:
                help = "give each capture its own name"
                yield "repeated-capture", f"{quote(piece)} appears twice", help
            if has_capture:
                help = "put a `:` between them, or write one capture for both"
                yield "crowded-segment", "two captures share one segment", help
            names.add(name)
            has_capture = True
        elif piece != "*":
            has_capture = has_capture and ":" not in piece
        elif place < len(pieces) - 1:
            help = "end the pattern with it, or write `{name}` for one segment"
            yield "misplaced-wildcard", "`*` is not at the end", help
        elif has_capture:
            help = "put a `:` between them, or write `*` alone"
            yield "crowded-segment", "a capture and `*` share one segment", help


def _part(piece: str) -> PatternPart:
    if piece == "*":
        return AnySuffix()
    if _is_capture(piece):
        return Capture(piece[1:-1])
    return Literal((piece[0] if piece in ("{{", "}}") else piece).encode())


def _joined(parts: Iterable[PatternPart]) -> tuple[PatternPart, ...]:
    """Return parts with adjacent literals joined."""
    joined: list[PatternPart] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Literal) and isinstance(last, Literal):
            joined[-1] = Literal(last.text + part.text)
        else:
            joined.append(part)
    return tuple(joined)


def match(pattern: Pattern, key: bytes) -> dict[str, bytes] | None:
    """
    Match *key*, and return the values of the captures.

    No search is needed: a capture never leaves its `:`-separated segment, and each segment has at
    most one, so a key matches in one way or not at all.

    Returns:
        Captured bytes by capture name (empty for a pattern without captures), or None
        if the key does not match. Test with `is None`: an empty mapping is a match.
    """
    segments, is_open = segments_of(pattern.parts)
    pieces = key.split(b":", len(segments) - 1 if is_open else -1)
    if len(pieces) != len(segments):
        return None
    if is_open:
        if not pieces[-1].startswith(segments[-1].before):
            return None
        segments, pieces = segments[:-1], pieces[:-1]
    if not all(map(Segment.matches, segments, pieces)):
        return None
    return {
        name: piece[len(before) : len(piece) - len(after)]
        for (before, after, name), piece in zip(segments, pieces, strict=True)
        if after is not None
    }


def beginning(pattern: Pattern) -> bytes:
    """Return the literal prefix of every key that matches, up to the first capture or `*`."""
    first = pattern.parts[0]
    return first.text if isinstance(first, Literal) else b""


def ending(pattern: Pattern) -> bytes:
    """Return the literal suffix of every key that matches, from the last capture or `*` on."""
    last = pattern.parts[-1]
    return last.text if isinstance(last, Literal) else b""


def is_open(pattern: Pattern) -> bool:
    """Return whether a pattern ends with `*`: then it matches all that extends a matched key."""
    return isinstance(pattern.parts[-1], AnySuffix)


def bound_pattern(pattern: Pattern, bind: Mapping[str, bytes]) -> Pattern | None:
    """Return a pattern with values in place of captures; None if it lacks one of these."""
    if not bind.keys() <= {*pattern.captures}:
        return None
    parts = (
        Literal(bind[part.name]) if isinstance(part, Capture) and part.name in bind else part
        for part in pattern.parts
    )
    return Pattern(pattern.source, _joined(parts), pattern.span)


def keys_under(prefix: bytes) -> Pattern:
    """Return the pattern of all keys that begin with *prefix*."""
    parts = (Literal(prefix), AnySuffix()) if prefix else (AnySuffix(),)
    return Pattern(prefix.decode("utf-8", "surrogateescape") + "*", parts)


def exactly(key: bytes) -> Pattern:
    """Return the pattern of one key."""
    return Pattern(key.decode("utf-8", "surrogateescape"), (Literal(key),))


def may_start_with(pattern: Pattern, prefix: bytes) -> bool:
    """Return whether some key that matches *pattern* begins with *prefix*."""
    return overlaps(pattern, keys_under(prefix))
