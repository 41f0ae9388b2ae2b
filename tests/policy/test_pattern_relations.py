"""Which patterns cover which, and which have keys in common."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyleash.errors import PolicyError
from keyleash.policy import Pattern, covered_by, covers, match, overlaps, parse_pattern
from support.patterns import KEYS, key_of, patterns
from support.thorough import thorough

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
    """…and not the other way round, unless they match the same keys."""
    first, second = parse_pattern(wide), parse_pattern(narrow)

    assert covers(first, second)
    assert covers(second, first) == (narrow == wide.replace("x", "y"))


@pytest.mark.parametrize(
    ("one", "other"),
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
def test_pattern_does_not_cover_what_it_may_not_match(one: str, other: str) -> None:
    """One key outside is enough."""
    assert not covers(parse_pattern(one), parse_pattern(other))


@thorough(100)
@given(pair=PAIRS, captured=KEYS, suffix=KEYS)
def test_covered_pattern_has_no_key_outside(
    pair: tuple[Pattern, Pattern], captured: bytes, suffix: bytes
) -> None:
    """If a covers b and b matches a key, a matches it too."""
    wide, narrow = pair
    key = key_of(narrow, captured, suffix)
    assume(match(narrow, key) is not None)

    assert not covers(wide, narrow) or match(wide, key) is not None


@thorough(100)
@given(pair=PAIRS)
def test_uncovered_pattern_has_a_key_outside(pair: tuple[Pattern, Pattern]) -> None:
    """`covers` says no only with a reason: a byte that no pattern names is the witness."""
    wide, narrow = pair
    witnesses = [key_of(narrow, b"\0", suffix) for suffix in (b"", b":", b"\0")]

    assert all(match(narrow, key) is not None for key in witnesses)
    assert covers(wide, narrow) or any(match(wide, key) is None for key in witnesses)


@thorough(100)
@given(pair=PAIRS, captured=KEYS, suffix=KEYS, key=KEYS)
def test_key_that_matches_two_patterns_makes_them_overlap(
    pair: tuple[Pattern, Pattern], captured: bytes, suffix: bytes, key: bytes
) -> None:
    """A guard leaves deny rules aside for granted keys only where this says that none meets."""
    one, other = pair
    for found in (key, key_of(one, captured, suffix), key_of(other, captured, suffix)):
        if match(one, found) is not None and match(other, found) is not None:
            assert overlaps(one, other)
            assert overlaps(other, one)


@pytest.mark.parametrize(
    ("one", "other", "meeting"),
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
def test_patterns_overlap_as_far_as_some_key_matches_both(
    one: str, other: str, meeting: bool
) -> None:
    """Neither too often, which costs time, nor too seldom, which would lose a deny rule."""
    assert overlaps(parse_pattern(one), parse_pattern(other)) is meeting
    assert overlaps(parse_pattern(other), parse_pattern(one)) is meeting


def short_patterns() -> list[Pattern]:
    """Every pattern of up to three pieces, with and without a final `*`."""
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
"""A byte that no pattern can name, as none is ever part of UTF-8."""
SHORT_KEYS = [
    b"".join(made)
    for length in range(7)
    for made in product([b"a", b"b", b":", FRESH], repeat=length)
]


@pytest.fixture(scope="module")
def keys_of() -> dict[Pattern, frozenset[bytes]]:
    """By brute force: which of all short keys each short pattern matches."""
    return {
        pattern: frozenset(key for key in SHORT_KEYS if match(pattern, key) is not None)
        for pattern in SHORT
    }


def test_relations_of_all_short_patterns_are_those_of_the_keys_they_match(
    keys_of: dict[Pattern, frozenset[bytes]],
) -> None:
    """Exact in both directions: what they say is what trying every short key shows."""
    for item, other in product(SHORT, repeat=2):
        assert covers(item, other) == (keys_of[item] >= keys_of[other]), (item, other)
        assert overlaps(item, other) == bool(keys_of[item] & keys_of[other]), (item, other)
        assert covered_by(other, [item]) == covers(item, other), (item, other)


@thorough(100)
@given(narrow=st.sampled_from(SHORT), wides=st.lists(st.sampled_from(SHORT), max_size=8))
def test_union_covers_what_has_no_key_outside_of_it(
    keys_of: dict[Pattern, frozenset[bytes]], narrow: Pattern, wides: list[Pattern]
) -> None:
    """The same for several patterns that share the work."""
    matched = frozenset[bytes]().union(*(keys_of[wide] for wide in wides))

    assert covered_by(narrow, wides) == (matched >= keys_of[narrow])


def split(source: str, number: int) -> list[str]:
    """The keys of a pattern that ends in `*`, dealt out to four patterns."""
    start = source.removesuffix("*")
    return [start, f"{start}:*", f"{start}{{s{number}}}", f"{start}{{s{number}}}:*"]


@thorough(100)
@given(data=st.data(), start=st.sampled_from(["", "a", "a:", "a:{x}:b", "::"]))
def test_whole_is_covered_by_all_of_its_parts_and_not_by_all_but_one(
    data: st.DataObject, start: str
) -> None:
    """However finely a suffix is divided, each part is needed."""
    parts = [f"{start}*"]
    for number in range(data.draw(st.integers(1, 5))):
        parts.remove(
            chosen := data.draw(st.sampled_from([item for item in parts if item[-1:] == "*"]))
        )
        parts += split(chosen, number)
    # The whole of `*` has the empty key, which no pattern but it can name.
    read = [parse_pattern(part) for part in parts if part]
    whole = parse_pattern(f"{start}*")

    assert covered_by(whole, read) == ("" not in parts)
    lost = data.draw(st.sampled_from(read))
    assert not covered_by(whole, [item for item in read if item is not lost])


def test_nothing_covers_no_pattern() -> None:
    """A pattern always matches some key."""
    assert not covered_by(parse_pattern("a"), [])
    assert not covered_by(parse_pattern("*"), [])


def test_union_of_many_long_patterns_is_judged_without_trying_all_of_their_keys() -> None:
    """A hundred segments, each empty or not, have more keys than could ever be tried."""
    start, parts = "a", []
    for number in range(100):
        parts += [start, f"{start}{{s{number}}}", f"{start}{{s{number}}}:*"]
        start += ":"
    read = [parse_pattern(part) for part in parts]

    assert covered_by(parse_pattern("a*"), [*read, parse_pattern(f"{start}*")])
    assert not covered_by(parse_pattern("a*"), read)
