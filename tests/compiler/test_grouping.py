"""Patterns grouped by their beginnings find the same keys as patterns tried one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hypothesis import example, given
from hypothesis import strategies as st
from lupa import lua51

from keyleash.compiler.ir import Matcher
from keyleash.compiler.match_tree import DEEPEST, FEW, Grouping, grouped
from keyleash.compiler.passes.translate_patterns import matcher
from keyleash.compiler.render import render
from keyleash.policy.patterns import match, parse_pattern
from support.thorough import thorough

PIECES = st.lists(st.sampled_from(["a", "b", "ab", "é", "ÿ", "0", ":", "{{"]), max_size=4)
TAILS = {"": "", "*": "x", ":{x}": ":x", ":{x}:b": ":x:b", ":{x}:*": ":x:"}


@st.composite
def patterns_and_keys(draw: st.DrawFn) -> tuple[list[str], list[bytes]]:
    """Patterns, and for each a key that it finds; then that key cut short, and any others."""
    sources, keys = [], []
    for pieces, tail in draw(st.lists(st.tuples(PIECES, st.sampled_from([*TAILS])), min_size=3)):
        start = "".join(pieces)
        found = (start.replace("{{", "{") + TAILS[tail]).encode()
        sources.append(start + tail or "*")
        keys += [found, found[:-1]]
    return sources, keys + draw(st.lists(st.binary(max_size=6)))


def written_out(matchers: Sequence[Matcher]) -> Callable[[bytes], bool]:
    """The Lua that tries *matchers*."""
    body = render("authorize/match_any.lua", matchers=matchers)
    lua = lua51.LuaRuntime(encoding=None)
    head = b"local find, key, matched = string.find, (...), false\n"
    made: Callable[[bytes], bool] = lua.compile(head + body.encode() + b"return matched\n")
    return made


def tried(grouping: Grouping, key: bytes) -> Iterator[Matcher]:
    """The matchers that *key* is compared with if none matches, in order."""
    yield from grouping.singly
    if grouping.lower and grouping.upper:
        byte = key[grouping.position - 1] if len(key) >= grouping.position else 0
        yield from tried(grouping.lower if byte < grouping.bound else grouping.upper, key)


def depth(grouping: Grouping) -> int:
    """Return the depth of a tree of choices."""
    halves = [half for half in (grouping.lower, grouping.upper) if half]
    return 1 + max(map(depth, halves)) if halves else 0


def matchers_of(*sources: str) -> list[Matcher]:
    return [matcher(parse_pattern(source)) for source in sources]


@thorough(200)
@given(patterns_and_keys())
@example((["a*", "ab:*", "b*", "é"], [b"", b"\xff", b"\x00", b"a", b"\xc3", b"b\x00\xff"]))
def test_grouped_patterns_match_what_they_match_one_by_one(
    written: tuple[list[str], list[bytes]],
) -> None:
    """A key meets every pattern that could find it, whatever its length and its bytes."""
    sources, keys = written
    patterns = [parse_pattern(source) for source in sources]
    matches = written_out([matcher(pattern) for pattern in patterns])

    for key in keys:
        expected = any(match(pattern, key) is not None for pattern in patterns)
        assert matches(key) == expected


def test_every_key_of_many_patterns_is_found() -> None:
    """The rendered Lua makes the same choices as the plan, at all levels."""
    matches = written_out(matchers_of(*(f"agents:kind{n:03}:{{job}}" for n in range(200))))

    assert all(matches(f"agents:kind{n:03}:7".encode()) for n in range(200))
    assert not any(matches(f"agents:kind{n:03}:7".encode()) for n in range(200, 1000))
    assert not any(matches(b"agents:kind199:"[:n]) for n in range(16))


def test_few_patterns_are_not_grouped() -> None:
    """Most policies have so few that reading a byte would cost more than it saves."""
    assert grouped(matchers_of(*(f"kind{n}:*" for n in range(FEW)))).position == 0
    assert grouped(matchers_of(*(f"kind{n}:*" for n in range(FEW + 1)))).position == len("kind0")


def test_choices_are_balanced_and_read_few_bytes() -> None:
    """Each choice is by the byte that splits the patterns most evenly."""
    some = matchers_of("k0:*", "k1:*", "k2:*", "k3:*")
    short, first, second, third = (Grouping((each,)) for each in some)

    lower = Grouping((), 2, ord("1"), short, first)
    upper = Grouping((), 2, ord("3"), second, third)
    assert grouped(some) == Grouping((), 2, ord("2"), lower, upper)


def test_one_short_pattern_does_not_make_the_search_linear() -> None:
    """A short pattern is tried first; the others are split by bytes behind its end."""
    many = [f"agents:kind{n:03}:{{job}}:state" for n in range(200)]
    grouping = grouped(matchers_of(*many, "a*", "*"))

    for n in range(200):
        assert len([*tried(grouping, f"agents:kind{n:03}:7:state".encode())]) == 1 + 2
    assert depth(grouping) <= 10


def test_literal_keys_are_grouped_too() -> None:
    """Their whole text is what they begin with."""
    grouping = grouped(matchers_of(*(f"lock:{n}" for n in range(100))))
    assert all(len([*tried(grouping, f"lock:{n}".encode())]) <= 10 for n in range(100))


def test_patterns_that_one_byte_each_tells_apart_are_nested_within_bounds() -> None:
    """Lua refuses a script of too many nested blocks, so the last are tried one by one."""
    peeled = ["x" * n + "y" + "x" * (199 - n) + ":*" for n in range(200)]
    some = matchers_of(*peeled)

    assert depth(grouped(some)) == DEEPEST
    matches = written_out(some)
    assert matches(peeled[199].encode())
    assert not matches(b"x" * 201)


def test_patterns_with_one_beginning_are_tried_one_by_one() -> None:
    """No byte at a fixed position distinguishes them."""
    some = matchers_of(*(f"a:{{x}}:{n}" for n in range(10)))
    assert grouped(some) == Grouping(tuple(some))
