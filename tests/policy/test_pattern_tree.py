"""Many patterns at once say what each of them says alone, without looking at each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.commands import load_table
from keyleash.compiler import compile_policy
from keyleash.policy import Pattern, Policy, covers, overlaps, parse_policy
from keyleash.policy.lint import lint
from keyleash.policy.pattern_tree import PatternTree
from keyleash.policy.patterns import parse_pattern
from support.patterns import patterns
from support.thorough import thorough

TABLE = load_table()
SHAPES = ("a:{n}:x", "a:{n}:{{x}}:s", "{{x}}:a{n}:s", "a{n}:*", "{{x}}:{n}:*")


@thorough(300)
@given(some=st.lists(patterns(), max_size=4), other=patterns())
def test_patterns_that_cover_another_are_found_in_their_order(
    some: list[Pattern], other: Pattern
) -> None:
    """Compared with each of them."""
    tree = PatternTree((pattern, place) for place, pattern in enumerate(some))

    found = [item.owner for item in tree.that_cover(other)]

    assert found == [place for place, item in enumerate(some) if covers(item, other)]


@thorough(300)
@given(some=st.lists(patterns(), max_size=4), other=patterns())
def test_pattern_overlaps_some_if_it_overlaps_one(some: list[Pattern], other: Pattern) -> None:
    """Compared with each of them."""
    tree = PatternTree((pattern, None) for pattern in some)

    assert tree.overlaps(other) == any(overlaps(item, other) for item in some)


@thorough(300)
@given(some=st.lists(patterns(), max_size=4), other=patterns(), kept=st.sets(st.integers(0, 3)))
def test_entries_that_do_not_count_cover_nothing(
    some: list[Pattern], other: Pattern, kept: set[int]
) -> None:
    """As if they were not there."""
    tree = PatternTree((pattern, place) for place, pattern in enumerate(some))
    rest = PatternTree((item, None) for place, item in enumerate(some) if place in kept)

    assert tree.covers(other, lambda item: item.owner in kept) == rest.covers(other)


def calls_of(work: Callable[[int], Any], count: int) -> int:
    """How many functions are called: a measure of work that no other process disturbs."""
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


@pytest.mark.parametrize("covering", [False, True], ids=["apart", "covered"])
@pytest.mark.parametrize("denies", [None, "a:{n}:lock"])
@pytest.mark.parametrize("shape", SHAPES)
def test_twice_as_many_grants_are_at_most_twice_and_a_half_the_work(
    shape: str, denies: str | None, covering: bool
) -> None:
    """Whatever their patterns begin with, for all that `keyleash check` does with a policy."""

    def read(count: int) -> Policy:
        return policy_of(
            shape, count, denies, "  - {allow: [read, write], keys: ['*']}" if covering else ""
        )

    few, many = read(100), read(200)
    works: tuple[Callable[[int], Any], ...] = (
        read,
        lambda count: lint(few if count == 100 else many),
        lambda count: compile_policy(few if count == 100 else many, TABLE),
    )

    for work in works:
        work(200)  # what is only done once
        assert calls_of(work, 200) < 2.5 * calls_of(work, 100)


def test_denied_patterns_with_captures_alone_in_common_are_not_compared_with_each_grant() -> None:
    """Nor does a capture in the place of a whole segment look at all that may stand there."""
    few, many = (policy_of("{{t}}:k{n}", n, "{{t}}:{{u}}:d{n}", "") for n in (100, 200))

    def work(count: int) -> Any:
        return lint(few if count == 100 else many)

    work(200)
    assert calls_of(work, 200) < 2.5 * calls_of(work, 100)


def test_pattern_that_is_added_after_a_question_counts_in_the_next() -> None:
    """What was joined for the question before does not have it."""
    asked, *some = (parse_pattern(text) for text in ("{t}:{u}:d", "a:b", "a:c:d"))
    tree = PatternTree([(some[0], None)])

    assert not tree.overlaps(asked)
    tree.add(some[1], None)
    assert tree.overlaps(asked)
