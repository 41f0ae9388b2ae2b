"""Patterns that lack a `:` where others have one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import Identity, Pattern, Policy
from keyleash.policy.problems import quote
from keyleash.policy.segments import Segment, segments_of

CODE = "missing-delimiter"

Segments = tuple[Segment, ...]


def missing_delimiter(policy: Policy) -> Iterator[Finding]:
    """Find patterns that are another one less a `:`, and a `*` that reaches into other names."""
    for thing in ("key", "channel"):
        places = list(_patterns(policy, thing))
        neighbours = _Neighbours([pattern for _, pattern in places])
        for identity, pattern in places:
            lacking = neighbours.that_has_one_more(pattern)
            entered = None if lacking else neighbours.that_is_entered(pattern)
            if lacking:
                message = f"differs from {_named(lacking)} in a missing `:` alone"
                help = "write both alike, or give one of them another name"
            elif entered:
                message = f"takes in what begins like {_named(entered)} too"
                help = f"end it at a `:`, as in `{pattern.source[:-1]}:*`"
            else:
                continue
            source = quote(pattern.source)
            message = f"the {thing} pattern {source} {message}"
            yield finding(identity, CODE, message, pattern.span, help)


def _patterns(policy: Policy, thing: str) -> Iterator[tuple[Identity, Pattern]]:
    for identity in policy.identities:
        rules = (*identity.grants, *(identity.deny if thing == "key" else ()))
        for rule in rules:
            for pattern in getattr(rule, f"{thing}s"):
                yield identity, pattern


def _named(pattern: Pattern) -> str:
    return quote(pattern.source) + (f" on line {pattern.span.line}" if pattern.span else "")


class _Neighbours:
    """All patterns of a document, by what others would look like that lack a `:`."""

    def __init__(self, patterns: list[Pattern]) -> None:
        self._joined: dict[tuple[Segments, bool], Pattern] = {}
        self._names: dict[Segments, dict[bytes, Pattern]] = {}
        for pattern in patterns:
            segments, is_open = _form(pattern)
            for place in range(len(segments) - 1):
                joined = _joined(segments, is_open, place)
                if joined is not None:
                    self._joined.setdefault((joined, is_open), pattern)
                name = segments[place]
                if name.capture is None and name.before:
                    names = self._names.setdefault(segments[:place], {})
                    names.setdefault(name.before, pattern)

    def that_has_one_more(self, pattern: Pattern) -> Pattern | None:
        """One that would be *pattern* if it had one `:` less."""
        return self._joined.get(_form(pattern))

    def that_is_entered(self, pattern: Pattern) -> Pattern | None:
        """One with a whole segment that begins as the last one of *pattern*, which goes on."""
        (*before, last), is_open = _form(pattern)
        if not is_open or not last.before:
            return None
        names = self._names.get(tuple(before), {})
        return next((one for name, one in names.items() if name.startswith(last.before)), None)


def _form(pattern: Pattern) -> tuple[Segments, bool]:
    """Its segments, whatever captures are called."""
    segments, is_open = segments_of(pattern.parts)
    return tuple(
        one if one.capture is None else replace(one, capture="") for one in segments
    ), is_open


def _joined(segments: Segments, is_open: bool, place: int) -> Segments | None:
    """The same without the `:` after the segment at *place*, if that makes a pattern."""
    one, two = segments[place : place + 2]
    if one.capture is None:
        joined = Segment(one.before + two.before, two.after, two.capture)
    elif two.capture is None and not (is_open and place == len(segments) - 2):
        joined = Segment(one.before, one.after + two.before, one.capture)
    else:
        return None
    return (*segments[:place], joined, *segments[place + 2 :])
