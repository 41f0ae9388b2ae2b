"""Translate key patterns to Lua: an equality if the pattern is literal, else an anchored find.

Lua 5.1 patterns: https://www.lua.org/manual/5.1/manual.html#5.4.1. A pattern cannot
hold a NUL byte; it has `%z` instead.
"""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import Captured, Guard, Matcher
from keyleash.policy.model import AnySuffix, Capture, Literal, Pattern
from keyleash.policy.patterns import beginning, keys_under

_MAGIC = frozenset(b"^$()%.[]*+-?")


def translate_patterns(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `matchers` (one tuple per grant, in policy order) and `denied`."""
    identity = guard.identity
    bound = identity.token.bound
    return replace(
        guard,
        matchers=tuple(
            tuple(matcher(key, bound=bound) for key in grant.keys) for grant in identity.grants
        ),
        denied=tuple(map(matcher, identity.denied_keys)),
    )


def matcher(pattern: Pattern, *, bound: bool = False) -> Matcher:
    """Return the cheapest Lua for *pattern*.

    Args:
        bound: Whether its captures are compared with the bindings of tokens.
    """
    if bound and pattern.captures:
        return replace(matcher(pattern), captured=captured(pattern))
    match pattern.parts:
        case (AnySuffix(),):
            return Matcher(source=pattern.source)
        case (Literal(text),):
            return Matcher(text=text, source=pattern.source)
        case _:
            return Matcher(None, lua_pattern(pattern), beginning(pattern), pattern.source)


def captured(pattern: Pattern) -> Captured:
    """Return the captures of *pattern*."""
    start = b"".join(
        part.text if isinstance(part, Literal) else b"\xff%s\xff" % part.name.encode()
        for part in pattern.parts
        if not isinstance(part, AnySuffix)
    )
    in_name = {part.name for part in pattern.parts if isinstance(part, Capture)}
    segments = (
        (name, lua_pattern(pattern, name), name not in in_name) for name in pattern.captures
    )
    return Captured(tuple(segments), start)


def anything_under(prefix: bytes) -> Matcher:
    """Return the matcher of keys that begin with *prefix*."""
    return matcher(keys_under(prefix))


def lua_pattern(pattern: Pattern, capture: str | None = None) -> bytes:
    """Return an anchored Lua pattern that captures the segment named *capture*, if any."""
    pieces = [b"^"]
    for part in pattern.parts:
        match part:
            case Literal(text):
                pieces.append(b"".join(_escape(byte) for byte in text))
            case Capture(name) if name == capture:
                pieces.append(b"([^:]+)")
            case Capture():
                pieces.append(b"[^:]+")
            case AnySuffix():
                return b"".join(pieces)
    return b"".join([*pieces, b"$"])


def _escape(byte: int) -> bytes:
    if byte == 0:
        return b"%z"
    return b"%" + bytes([byte]) if byte in _MAGIC else bytes([byte])
