"""Patterns grouped by their beginnings find the same keys as patterns tried one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyleash.compiler.grouping import FEW, grouped
from keyleash.compiler.ir import Matcher
from keyleash.compiler.passes.translate_patterns import matcher
from keyleash.policy.patterns import match, parse_pattern
from support.thorough import thorough

PIECES = st.lists(st.sampled_from(["a", "b", "ab", "é", ":", "{{"]), max_size=4).map("".join)


@st.composite
def sources(draw: st.DrawFn) -> str:
    """A literal beginning, and perhaps a capture or a suffix behind it."""
    start = draw(PIECES)
    tail = draw(st.sampled_from(["", "*", ":{x}", ":{x}:b", ":{x}:*"]))
    return start + tail or "*"


@thorough(150)
@given(
    st.lists(sources(), min_size=1, max_size=24, unique=True),
    st.lists(st.tuples(PIECES, st.sampled_from(["", "x", ":x", ":x:b", ":x:"])), min_size=1),
)
def test_grouped_patterns_match_what_they_match_one_by_one(
    written: list[str], tried: list[tuple[str, str]]
) -> None:
    """A key meets every pattern that could find it, whatever its length."""
    patterns = [parse_pattern(source) for source in written]
    by_matcher = {matcher(pattern): pattern for pattern in patterns}
    grouping = grouped([*by_matcher])
    keys = [(start + tail).replace("{{", "{").encode() for start, tail in tried]

    placed = [*grouping.singly, *(one for _, some in grouping.groups for one in some)]
    assert sorted(map(repr, placed)) == sorted(map(repr, by_matcher))
    for key in keys:
        candidates: list[Matcher] = [*grouping.singly]
        for beginning, some in grouping.groups:
            candidates += some if key[: grouping.length] == beginning else ()
        found = any(match(by_matcher[one], key) is not None for one in candidates)
        assert found == any(match(pattern, key) is not None for pattern in patterns)


def test_few_patterns_are_not_grouped() -> None:
    """Most policies have so few that cutting the key would cost more than it saves."""
    few = [matcher(parse_pattern(f"kind{n}:*")) for n in range(FEW)]
    assert grouped(few).groups == ()

    many = [matcher(parse_pattern(f"kind{n}:*")) for n in range(FEW + 1)]
    assert len(grouped(many).groups) == FEW + 1
