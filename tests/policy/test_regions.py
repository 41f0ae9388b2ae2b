"""Regions of keys: compared with a look at every short key."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.policy import Pattern, match, parse_pattern
from keyleash.policy.keysets import Region, RegionsTooComplexError, common_key, find_key
from support.thorough import thorough

SOURCES = (
    "a", "ab", "a:{x}", "{x}", "*", "a:*", "b*", "{x}:b", "a{x}b", "a{x}b:*", "{x}:{y}", "{x}a:*",
    ":", "a::*", "{x}b{{", "{{{x}}}",
)  # fmt: skip
PATTERNS = [parse_pattern(source) for source in SOURCES]
KEYS = [bytes(key) for length in range(6) for key in itertools.product(b"ab:{}", repeat=length)]
MATCHES = {
    pattern: {key for key in KEYS if match(pattern, key) is not None} for pattern in PATTERNS
}


def some(fewest: int, most: int) -> st.SearchStrategy[tuple[Pattern, ...]]:
    lists = st.lists(st.sampled_from(PATTERNS), min_size=fewest, max_size=most, unique=True)
    return lists.map(tuple)


REGIONS = st.builds(
    Region, groups=st.lists(some(1, 3), min_size=1, max_size=2).map(tuple), excluded=some(0, 2)
)


def keys_in(region: Region) -> set[bytes]:
    """All of the short keys that belong to it."""
    found = {*KEYS}
    for group in region.groups:
        found &= set().union(*(MATCHES[item] for item in group))
    return found.difference(*(MATCHES[item] for item in region.excluded))


def is_in(region: Region, key: bytes) -> bool:
    return all(any(match(item, key) is not None for item in group) for group in region.groups) and (
        all(match(item, key) is None for item in region.excluded)
    )


@thorough(300)
@given(REGIONS, REGIONS)
def test_key_is_found_exactly_where_there_is_one_and_is_one_of_the_shortest(
    inside: Region, outside: Region
) -> None:
    """Nothing is overlooked, nothing made up."""
    key = find_key(inside, outside)
    there = keys_in(inside) - keys_in(outside)

    if key is None:
        assert not there
    else:
        assert is_in(inside, key)
        assert not is_in(outside, key)
        assert len(key) == min(map(len, there), default=len(key))


def is_covered(narrow: Sequence[Pattern], wide: Sequence[Pattern]) -> bool:
    return find_key(Region((tuple(narrow),)), Region((tuple(wide),))) is None


def test_patterns_cover_one_another_together() -> None:
    """None of them does so alone."""
    wide = [parse_pattern(source) for source in ("a", "a{x}", "a:*", "a{x}:*")]

    assert is_covered([parse_pattern("a*")], wide)
    assert not any(is_covered([parse_pattern("a*")], [item]) for item in wide)
    assert common_key([parse_pattern("a{x}")], [parse_pattern("{x}b")]) == b"ab"
    assert common_key([parse_pattern("a:{x}")], [parse_pattern("b:*")]) is None


def test_bytes_that_all_patterns_name_leave_another_one_to_try() -> None:
    """A capture takes any byte, also one that stands in no pattern."""
    letters = [parse_pattern(chr(code)) for code in range(1, 128) if chr(code) not in "{}*:"]

    key = find_key(Region(((parse_pattern("{x}"),),)), Region((tuple(letters),)))

    assert key is not None
    assert is_in(Region(((parse_pattern("{x}"),),), tuple(letters)), key)


def test_patterns_that_overlap_in_too_many_ways_are_refused() -> None:
    """Rather than that a command never comes back."""

    def starting(letter: str, place: int) -> Pattern:
        return parse_pattern(":".join(f"{letter * (at == place)}{{c{at}}}" for at in range(24)))

    # Which of the two a key matches must be remembered, for each of 24 segments.
    pairs = tuple((starting("v", place), starting("w", place)) for place in range(24))

    with pytest.raises(RegionsTooComplexError):
        find_key(Region(pairs))
