"""Key patterns, such as `jobs:{job_id}:*`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from keyleash.errors import PolicyError, Problem, Span
from keyleash.policy.model import AnySuffix, Capture, Literal, Pattern, PatternPart
from keyleash.policy.pattern_tree import agree, segments_of
from keyleash.policy.problems import fail, quote

# Patterns of keys and channels: how they are written, and what they match.
#
# `match` is the reference for the guard's Lua. It works on `:`-separated segments,
# which a capture never leaves and of which each holds at most one capture; so a key
# matches in one way or not at all, and no search is needed.

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


def match(pattern: Pattern, key: bytes) -> dict[str, bytes] | None:
    """
    Say whether *key* matches, and what the captures hold.

    Returns:
        Captured bytes by capture name (empty for a pattern without captures), or None
        if the key does not match. Test with `is None`: an empty mapping is a match.
    """
    segments, open_ended = segments_of(pattern.parts)
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


def beginning(pattern: Pattern) -> bytes:
    """The bytes with which every key that matches begins, up to the first capture or `*`."""
    first = pattern.parts[0]
    return first.text if isinstance(first, Literal) else b""


def may_start_with(pattern: Pattern, prefix: bytes) -> bool:
    """Whether some key that matches *pattern* begins with *prefix*."""
    segments, open_ended = segments_of(pattern.parts)
    pieces = prefix.split(b":")
    for place, segment in enumerate(segments[: len(pieces)]):
        if open_ended and place == len(segments) - 1:
            return agree(segment.before, b":".join(pieces[place:]))
        if place == len(pieces) - 1:
            piece = pieces[place]
            return segment.before.startswith(piece) or (
                segment.capture is not None and piece.startswith(segment.before)
            )
        if not segment.matches(pieces[place]):
            return False
    return False
