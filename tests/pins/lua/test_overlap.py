"""The walk by which a guard compares keys of delegations and of indexes, against `overlaps`."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from lupa import lua51

from keyleash.compiler.delegation import written
from keyleash.policy import Pattern, overlaps, parse_pattern
from keyleash.policy.patterns import bound_pattern, exactly, keys_under
from keyleash.store.scripts import lua_root

PIECES = ["a", "b", "ab", "{x}", "a{x}", "{x}b", "{y}", "a{y}b", ""]
VALUES = [b"a", b"b", b"ab", b"%", b"\xff", b"aab"]


def walk() -> Any:
    """Return the function of the template, of bindings, text, openness and pattern."""
    text = (lua_root() / "guard" / "authorize" / "may_match.lua").read_text()
    source = f"""
        local find = string.find
        {text}
        return function(x, y, text, is_open, pattern)
          return may_match(text, is_open, pattern, {{ x = x or nil, y = y or nil }})
        end"""
    return lua51.LuaRuntime(encoding=None).execute(source.encode())


def drawn(dice: random.Random) -> Pattern:
    names: set[str] = set()
    pieces = []
    for _ in range(dice.randint(1, 4)):
        piece = dice.choice(PIECES)
        name = piece[piece.find("{") :][:3]
        if name in names:
            continue
        names |= {name} if name else set()
        pieces.append(piece)
    text = ":".join(pieces)
    if not text.rpartition(":")[2].count("{") and dice.random() < 0.4:
        text += "*"
    return parse_pattern(text or "a")


def test_walk_over_segments_finds_the_same_overlaps_as_key_sets() -> None:
    """Keys and beginnings of keys, with and without values of captures."""
    dice, may_match = random.Random(7), walk()
    found: Counter[bool] = Counter()

    for _ in range(20_000):
        pattern = drawn(dice)
        key = b":".join(
            dice.choice([b"a", b"b", b"ab", b"aab", b"", b"abb", b"aXb"])
            for _ in range(dice.randint(1, 4))
        )
        is_open = dice.random() < 0.6
        bind = {name: dice.choice(VALUES) for name in pattern.captures if dice.random() < 0.4}
        if not key and not is_open:
            continue
        bound = bound_pattern(pattern, bind)
        assert bound is not None
        expected = overlaps(keys_under(key) if is_open else exactly(key), bound)
        values = [bind.get(name) or False for name in ("x", "y")]
        assert may_match(*values, key, is_open, written(pattern)) is expected, (key, pattern, bind)
        found[expected] += 1
    assert min(found.values()) > 2000
