"""Key sets: coverage, overlap and example keys, compared with what single keys match."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyleash.commands import load_table
from keyleash.compiler import compile_policy
from keyleash.errors import PolicyError, RegionsTooComplexError
from keyleash.policy import Pattern, Policy, match, overlaps, parse_pattern, parse_policy
from keyleash.policy.keysets import KeySet, Region, common_key, covers, find_key
from keyleash.policy.lint import lint
from support.patterns import KEYS, key_of, patterns
from support.thorough import thorough

TABLE = load_table()
SHAPES = ("a:{n}:x", "a:{n}:{{x}}:s", "{{x}}:a{n}:s", "a{n}:*", "{{x}}:{n}:*")
PAIRS = st.tuples(patterns(), patterns())


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("*", "a:{x}:*"),
        ("a:*", "a:b:*"),
        ("a:*", "a:"),
        ("a*", "a"),
        ("a:{x}", "a:b"),
        ("a:{x}", "a:{y}"),
        ("a:{x}", "a:b{x}c"),
        ("a:b{x}", "a:bc{x}d"),
        ("a:{x}:*", "a:b:c:*"),
        ("a:b*", "a:bc{x}:*"),
    ],
)
def test_wider_pattern_covers_the_narrower(wide: str, narrow: str) -> None:
    """Coverage is one-way, unless both patterns match the same keys."""
    first, second = parse_pattern(wide), parse_pattern(narrow)

    assert covers(first, second)
    assert covers(second, first) == (narrow == wide.replace("x", "y"))


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("a:{x}", "a:*"),
        ("a:{x}:*", "a:*"),
        ("a:bc*", "a:b{x}"),
        ("a:{x}", "a:b:c"),
        ("a:b", "a:{x}"),
        ("a:b{x}b", "a:bb"),
        ("a:b:*", "a:b"),
    ],
)
def test_pattern_does_not_cover_one_with_a_key_outside(wide: str, narrow: str) -> None:
    """One key that the wide pattern does not match is enough."""
    assert not covers(parse_pattern(wide), parse_pattern(narrow))


@thorough(50)
@given(pair=PAIRS, captured=KEYS, suffix=KEYS)
def test_covered_pattern_has_no_key_outside(
    pair: tuple[Pattern, Pattern], captured: bytes, suffix: bytes
) -> None:
    """If a covers b and b matches a key, a matches it too."""
    wide, narrow = pair
    key = key_of(narrow, captured, suffix)
    assume(match(narrow, key) is not None)

    assert not covers(wide, narrow) or match(wide, key) is not None


@thorough(50)
@given(pair=PAIRS)
def test_uncovered_pattern_has_a_key_outside(pair: tuple[Pattern, Pattern]) -> None:
    """`covers` is false only if a key with a byte that no pattern contains is outside."""
    wide, narrow = pair
    witnesses = [key_of(narrow, b"\0", suffix) for suffix in (b"", b":", b"\0")]

    assert all(match(narrow, key) is not None for key in witnesses)
    assert covers(wide, narrow) or any(match(wide, key) is None for key in witnesses)


@thorough(50)
@given(pair=PAIRS, captured=KEYS, suffix=KEYS, key=KEYS)
def test_key_that_matches_two_patterns_makes_them_overlap(
    pair: tuple[Pattern, Pattern], captured: bytes, suffix: bytes, key: bytes
) -> None:
    """A guard skips deny rules for granted keys only if none overlaps a granted pattern."""
    first, other = pair
    for found in (key, key_of(first, captured, suffix), key_of(other, captured, suffix)):
        if match(first, found) is not None and match(other, found) is not None:
            assert overlaps(first, other)
            assert overlaps(other, first)


@pytest.mark.parametrize(
    ("pattern", "other", "expected"),
    [
        ("a:{x}:state", "a:{x}:lock", False),
        ("a:{x}", "a:{x}:lock", False),
        ("a:*", "a:{x}:lock", True),
        ("a:{x}:*", "a:lock", False),
        ("a:b*", "a:{x}:lock", True),
        ("a:{x}b", "a:c{x}", True),
        ("a:{x}b", "a:{x}c", False),
        ("a:bc*", "a:b{x}", True),
        ("a:bc*", "a:bd{x}", False),
        ("a:b*", "a:bc:*", True),
        ("a:bc:*", "a:b", False),
        ("*", "a", True),
        ("a", "a", True),
        ("a:{x}", "a:", False),
    ],
)
def test_patterns_overlap_if_some_key_matches_both(
    pattern: str, other: str, expected: bool
) -> None:
    """A false overlap costs time; a missed one would lose a deny rule."""
    assert overlaps(parse_pattern(pattern), parse_pattern(other)) is expected
    assert overlaps(parse_pattern(other), parse_pattern(pattern)) is expected


def short_patterns() -> list[Pattern]:
    """Return every pattern of up to three pieces, with and without a final `*`."""
    found = []
    for pieces in (made for length in range(4) for made in product("ab:{", repeat=length)):
        source = "".join(f"{{x{n}}}" if item == "{" else item for n, item in enumerate(pieces))
        for ending in ("", "*"):
            try:
                found.append(parse_pattern(source + ending))
            except PolicyError:
                continue
    return found


SHORT = short_patterns()
FRESH = b"\xff"
"""A byte that no pattern can contain, since it is never part of UTF-8."""
SHORT_KEYS = [
    b"".join(made)
    for length in range(7)
    for made in product([b"a", b"b", b":", FRESH], repeat=length)
]


@pytest.fixture(scope="module")
def keys_of() -> dict[Pattern, frozenset[bytes]]:
    """The short keys that each short pattern matches, by brute force."""
    return {
        pattern: frozenset(key for key in SHORT_KEYS if match(pattern, key) is not None)
        for pattern in SHORT
    }


def test_relations_of_all_short_patterns_agree_with_the_keys_they_match(
    keys_of: dict[Pattern, frozenset[bytes]],
) -> None:
    """Coverage and overlap are exact: they equal what trying every short key shows."""
    for item, other in product(SHORT, repeat=2):
        assert covers(item, other) == (keys_of[item] >= keys_of[other]), (item, other)
        assert overlaps(item, other) == bool(keys_of[item] & keys_of[other]), (item, other)
        assert KeySet([item]).covers(other) == covers(item, other), (item, other)


@thorough(50)
@given(narrow=st.sampled_from(SHORT), wides=st.lists(st.sampled_from(SHORT), max_size=8))
def test_union_covers_a_pattern_without_a_key_outside(
    keys_of: dict[Pattern, frozenset[bytes]], narrow: Pattern, wides: list[Pattern]
) -> None:
    """The same for several patterns together."""
    matched = frozenset[bytes]().union(*(keys_of[wide] for wide in wides))

    assert KeySet(wides).covers(narrow) == (matched >= keys_of[narrow])


def split(source: str, number: int) -> list[str]:
    """Divide the keys of a pattern that ends in `*` among four patterns."""
    start = source.removesuffix("*")
    return [start, f"{start}:*", f"{start}{{s{number}}}", f"{start}{{s{number}}}:*"]


@thorough(50)
@given(data=st.data(), start=st.sampled_from(["", "a", "a:", "a:{x}:b", "::"]))
def test_divided_pattern_is_covered_by_all_parts_and_not_by_fewer(
    data: st.DataObject, start: str
) -> None:
    """Every part of a divided suffix is needed."""
    parts = [f"{start}*"]
    for number in range(data.draw(st.integers(1, 5))):
        parts.remove(
            chosen := data.draw(st.sampled_from([item for item in parts if item[-1:] == "*"]))
        )
        parts += split(chosen, number)
    # `*` also matches the empty key, which no other pattern can match.
    read = [parse_pattern(part) for part in parts if part]
    whole = parse_pattern(f"{start}*")

    assert KeySet(read).covers(whole) == ("" not in parts)
    lost = data.draw(st.sampled_from(read))
    assert not KeySet(item for item in read if item is not lost).covers(whole)


def test_empty_set_covers_no_pattern() -> None:
    """Every pattern matches some key."""
    assert not KeySet(()).covers(parse_pattern("a"))
    assert not KeySet(()).covers(parse_pattern("*"))


def test_union_of_many_long_patterns_is_compared_without_trying_all_keys() -> None:
    """A hundred segments, each empty or not, have too many keys to try all of them."""
    start, parts = "a", []
    for number in range(100):
        parts += [start, f"{start}{{s{number}}}", f"{start}{{s{number}}}:*"]
        start += ":"
    read = [parse_pattern(part) for part in parts]

    assert KeySet([*read, parse_pattern(f"{start}*")]).covers(parse_pattern("a*"))
    assert not KeySet(read).covers(parse_pattern("a*"))


@thorough(75)
@given(some=st.lists(patterns(), max_size=4), other=patterns())
def test_patterns_that_cover_another_are_found_in_order(
    some: list[Pattern], other: Pattern
) -> None:
    """The index agrees with a comparison of each pattern."""
    expected = [place for place, item in enumerate(some) if covers(item, other)]

    assert [*KeySet(some).covering(other)] == expected


@thorough(75)
@given(some=st.lists(patterns(), max_size=4), other=patterns())
def test_pattern_overlaps_a_set_if_it_overlaps_a_member(
    some: list[Pattern], other: Pattern
) -> None:
    """The index agrees with a comparison of each pattern."""
    assert KeySet(some).overlaps(other) == any(overlaps(item, other) for item in some)


@thorough(75)
@given(some=st.lists(patterns(), max_size=4), other=patterns(), counted=st.sets(st.integers(0, 3)))
def test_patterns_that_do_not_count_cover_nothing(
    some: list[Pattern], other: Pattern, counted: set[int]
) -> None:
    """The result is as if they were not in the set."""
    rest = KeySet(item for place, item in enumerate(some) if place in counted)

    assert KeySet(some).covers(other, lambda place: place in counted) == rest.covers(other)


def calls_of(work: Callable[[int], Any], count: int) -> int:
    """Count function calls: a measure of work that no other process disturbs."""
    calls = 0

    def see(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        work(count)
    finally:
        sys.setprofile(None)
    return calls


def policy_of(shape: str, count: int, denies: str | None, wide: str) -> Policy:
    lines = ["version: 1", "identities:", "  one:", "    kind: machine", "    grants:"]
    for number in range(count):
        keys = shape.format(n=number)
        lines.append(f"      - {{allow: [read, write], keys: ['{keys}']}}")
    lines += [f"    {wide}"] if wide else []
    if denies:
        lines.append("    deny:")
        lines += [f"      - {{keys: ['{denies.format(n=n)}']}}" for n in range(count)]
    return parse_policy("\n".join(lines), file="<test>", commands=TABLE)


@pytest.mark.slow
@pytest.mark.parametrize("covering", [False, True], ids=["apart", "covered"])
@pytest.mark.parametrize("denies", [None, "a:{n}:lock"])
@pytest.mark.parametrize("shape", SHAPES)
def test_twice_as_many_grants_are_at_most_twice_and_a_half_the_work(
    shape: str, denies: str | None, covering: bool
) -> None:
    """Reading, lint and compiling grow linearly, whatever the patterns begin with."""

    def read(count: int) -> Policy:
        return policy_of(
            shape, count, denies, "  - {allow: [read, write], keys: ['*']}" if covering else ""
        )

    few, many = read(60), read(120)
    works: tuple[Callable[[int], Any], ...] = (
        read,
        lambda count: lint(few if count == 60 else many),
        lambda count: compile_policy(few if count == 60 else many, TABLE),
    )

    for work in works:
        work(120)  # fill the caches
        assert calls_of(work, 120) < 2.5 * calls_of(work, 60)


def test_denied_patterns_that_share_only_captures_are_not_compared_with_each_grant() -> None:
    """A capture of a whole segment is not compared with every segment at its place."""
    few, many = (policy_of("{{t}}:k{n}", n, "{{t}}:{{u}}:d{n}", "") for n in (100, 200))

    def work(count: int) -> Any:
        return lint(few if count == 100 else many)

    work(200)
    assert calls_of(work, 200) < 2.5 * calls_of(work, 100)


SOURCES = (
    "a", "ab", "a:{x}", "{x}", "*", "a:*", "b*", "{x}:b", "a{x}b", "a{x}b:*", "{x}:{y}", "{x}a:*",
    ":", "a::*", "{x}b{{", "{{{x}}}",
)  # fmt: skip
REGION_PATTERNS = [parse_pattern(source) for source in SOURCES]
REGION_KEYS = [bytes(key) for length in range(6) for key in product(b"ab:{}", repeat=length)]
MATCHED = {
    pattern: {key for key in REGION_KEYS if match(pattern, key) is not None}
    for pattern in REGION_PATTERNS
}


def some(fewest: int, most: int) -> st.SearchStrategy[tuple[Pattern, ...]]:
    lists = st.lists(st.sampled_from(REGION_PATTERNS), min_size=fewest, max_size=most, unique=True)
    return lists.map(tuple)


REGIONS = st.builds(
    Region, groups=st.lists(some(1, 3), min_size=1, max_size=2).map(tuple), excluded=some(0, 2)
)


def keys_in(region: Region) -> set[bytes]:
    """Return the short keys in a region."""
    found = {*REGION_KEYS}
    for group in region.groups:
        found &= set().union(*(MATCHED[item] for item in group))
    return found.difference(*(MATCHED[item] for item in region.excluded))


def is_in(region: Region, key: bytes) -> bool:
    return all(any(match(item, key) is not None for item in group) for group in region.groups) and (
        all(match(item, key) is None for item in region.excluded)
    )


@thorough(150)
@given(REGIONS, REGIONS)
def test_found_key_is_one_of_the_shortest_in_one_region_and_not_the_other(
    inside: Region, outside: Region
) -> None:
    """A key is found exactly if there is one."""
    key = find_key(inside, outside)
    there = keys_in(inside) - keys_in(outside)

    if key is None:
        assert not there
    else:
        assert is_in(inside, key)
        assert not is_in(outside, key)
        assert len(key) == min(map(len, there), default=len(key))


def test_several_patterns_cover_another_together() -> None:
    """None of them does so alone."""
    narrow = Region(((parse_pattern("a*"),),))
    wide = tuple(parse_pattern(source) for source in ("a", "a{x}", "a:*", "a{x}:*"))

    assert find_key(narrow, Region((wide,))) is None
    assert all(find_key(narrow, Region(((item,),))) for item in wide)


def test_common_key_matches_a_pattern_of_each() -> None:
    """One of the shortest is returned, or None."""
    assert common_key([parse_pattern("a{x}")], [parse_pattern("{x}b")]) == b"ab"
    assert common_key([parse_pattern("a:{x}")], [parse_pattern("b:*")]) is None


def test_key_is_found_if_patterns_contain_every_readable_byte() -> None:
    """A capture matches any byte, also one that no pattern contains."""
    letters = [parse_pattern(chr(code)) for code in range(1, 128) if chr(code) not in "{}*:"]

    key = find_key(Region(((parse_pattern("{x}"),),)), Region((tuple(letters),)))

    assert key is not None
    assert is_in(Region(((parse_pattern("{x}"),),), tuple(letters)), key)


def test_patterns_that_overlap_in_too_many_ways_raise_an_error() -> None:
    """A search that would take too long ends with an error."""

    def starting(letter: str, place: int) -> Pattern:
        return parse_pattern(":".join(f"{letter * (at == place)}{{c{at}}}" for at in range(24)))

    # Which of the two a key matches must be remembered, for each of 24 segments.
    pairs = tuple((starting("v", place), starting("w", place)) for place in range(24))

    with pytest.raises(RegionsTooComplexError):
        find_key(Region(pairs))
