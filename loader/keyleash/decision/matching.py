"""Which keys and channels match a pattern, by regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

from keyleash.decision.trace import Match, Rule
from keyleash.policy import AnySuffix, Capture, Literal, Pattern


def matches_of(rules: Iterable[Rule], key: bytes) -> Iterator[Match[Rule]]:
    """Each pattern of keys that matches, of each rule."""
    for rule in rules:
        for pattern in rule.keys:
            held = captured(pattern, key)
            if held is not None:
                yield Match(rule, pattern, held)


def matches(pattern: Pattern, key: bytes) -> bool:
    return captured(pattern, key) is not None


def captured(pattern: Pattern, key: bytes) -> dict[str, bytes] | None:
    """What the captures of *pattern* hold, or None if *key* does not match."""
    found = _expression(pattern).fullmatch(key)
    return None if found is None else found.groupdict()


@cache
def _expression(pattern: Pattern) -> re.Pattern[bytes]:
    pieces = []
    for part in pattern.parts:
        match part:
            case Literal(text):
                pieces.append(re.escape(text))
            case Capture(name):
                pieces.append(b"(?P<%s>[^:]+)" % name.encode())
            case AnySuffix():
                pieces.append(b".*")
    return re.compile(b"".join(pieces), re.DOTALL)
