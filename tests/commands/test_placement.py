"""Rows that no server has today: merging and placing stay strict when one appears."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.commands import CommandSpec, KeyRange, OperationClass
from keyleash.commands.placement import (
    ABSENT,
    NO_KEY,
    NOT_ONE_WALK,
    SERVERS_DIFFER,
    SUBCOMMANDS,
    UNPLACED,
    place,
)
from keyleash.commands.rows import CommandRow, KeySpecRow, merge_rows, weaker_arity
from keyleash.commands.table import table_of

READ, WRITE = OperationClass.READ, OperationClass.WRITE


def keys_at(first: int, last: int, *flags: str, step: int = 1, limit: int = 0) -> KeySpecRow:
    """A key spec at counted places; *last* counts from *first*, as servers word it."""
    return {
        "flags": sorted(flags),
        "begin_search": {"type": "index", "spec": {"index": first}},
        "find_keys": {
            "type": "range",
            "spec": {"lastkey": last, "keystep": step, "limit": limit},
        },
    }


def row(*key_specs: KeySpecRow, arity: int = -4, flags: tuple[str, ...] = ()) -> CommandRow:
    return {
        "arity": arity,
        "flags": list(flags),
        "categories": [],
        "servers": ["redis 1"],
        "key_specs": list(key_specs),
        "positions_differ": False,
    }


def placed(*key_specs: KeySpecRow, **fields: Any) -> CommandSpec:
    return place("NEW", row(*key_specs, **fields), is_container=False)


def test_neighbours_with_equal_needs_become_one_range() -> None:
    """A guard walks fewer ranges, and the answer is the same."""
    spec = placed(keys_at(1, 0, "RO", "access"), keys_at(2, -1, "RW", "access"))

    assert spec.ranges == (KeyRange(1, -1, 1, (READ,)),)


def test_first_key_and_the_rest_may_differ() -> None:
    """It is the shape of BITOP and SDIFFSTORE."""
    spec = placed(keys_at(1, 0, "OW", "update"), keys_at(2, -1, "RO", "access"))

    assert spec.ranges == (KeyRange(1, 1, 1, (WRITE,)), KeyRange(2, -1, 1, (READ,)))
    assert spec.needs == (READ, WRITE)


@pytest.mark.parametrize(
    ("key_specs", "reason"),
    [
        ([], NO_KEY),
        ([keys_at(1, 0, "not_key")], NO_KEY),
        ([keys_at(1, 0, "RO", "access", "incomplete")], UNPLACED),
        ([keys_at(1, 0, "RO", "access", "a_flag_of_tomorrow")], UNPLACED),
        ([keys_at(1, -1, "RO", "access", limit=2)], UNPLACED),
        ([keys_at(1, -1, "RO", "access", step=0)], UNPLACED),
        ([keys_at(0, 0, "RO", "access")], UNPLACED),
        ([keys_at(4, 0, "RO", "access")], ABSENT),
        ([keys_at(1, 3, "RO", "access")], ABSENT),
        ([keys_at(1, -4, "RO", "access")], ABSENT),
        ([keys_at(1, 0, "RO"), keys_at(2, -4, "RW", "update")], ABSENT),
        ([keys_at(1, 0, "RO"), keys_at(3, 0, "RW", "update")], NOT_ONE_WALK),
        ([keys_at(1, 0, "RO"), keys_at(2, -1, "RW", "update", step=2)], NOT_ONE_WALK),
        ([keys_at(1, 0, "RO"), keys_at(1, 0, "RW", "update")], NOT_ONE_WALK),
        ([keys_at(1, -2, "RO"), keys_at(3, 0, "RW", "update")], NOT_ONE_WALK),
        ([keys_at(1, 1, "RO"), keys_at(3, 0, "RW", "update")], NOT_ONE_WALK),
        (
            [keys_at(1, 0, "RO"), keys_at(2, 0, "RW", "update"), keys_at(3, 0, "RM", "delete")],
            NOT_ONE_WALK,
        ),
    ],
)
def test_keys_that_one_walk_may_miss_are_refused(key_specs: list[KeySpecRow], reason: str) -> None:
    """A missed key is a missed permission check, so in doubt there is no command."""
    spec = placed(*key_specs)

    assert spec.refused == reason
    assert spec.ranges == ()


@pytest.mark.parametrize("kind", ["keyword", "unknown"])
def test_key_spec_that_searches_is_refused(kind: str) -> None:
    """Where a key word stands depends on the arguments before it."""
    spec = keys_at(1, 0, "RO", "access")
    searching: KeySpecRow = {**spec, "begin_search": {"type": kind, "spec": {}}}

    assert placed(searching).refused == UNPLACED


def test_key_spec_that_counts_by_an_argument_is_refused() -> None:
    """The number of keys is one of the arguments."""
    spec = keys_at(1, 0, "RO", "access")
    counting: KeySpecRow = {**spec, "find_keys": {"type": "keynum", "spec": {"keynumidx": 0}}}

    assert placed(counting).refused == UNPLACED


@pytest.mark.parametrize("flag", ["noscript", "admin", "pubsub", "asking", "movablekeys"])
def test_command_flag_refuses_whatever_the_keys(flag: str) -> None:
    """These commands reach beyond their keys, or hide some."""
    assert placed(keys_at(1, 0, "RO", "access"), flags=(flag,)).refused


def test_command_with_sub_commands_is_refused() -> None:
    """What it does depends on its second word."""
    key = keys_at(2, 0, "RO", "access")

    table = table_of(["redis 1"], {"BOX": row(), "BOX OPEN": row(key)})

    assert table.commands["BOX"].refused == SUBCOMMANDS
    assert table.commands["BOX OPEN"].refused == SUBCOMMANDS


def test_merged_flags_add_up() -> None:
    """A key needs what any of the servers says it needs."""
    one = row(keys_at(1, 0, "OW", "update"), flags=("write",))
    other = row(keys_at(1, 0, "RW", "access", "update"), flags=("denyoom",))

    merged = merge_rows(one, other)

    assert merged["flags"] == ["denyoom", "write"]
    assert place("NEW", merged, is_container=False).needs == (READ, WRITE)


def test_servers_that_place_keys_differently_refuse_the_command() -> None:
    """One guard cannot be right on both."""
    one, other = row(keys_at(1, 0, "RO", "access")), row(keys_at(2, 0, "RO", "access"))

    merged = merge_rows(one, other)

    assert place("NEW", merged, is_container=False).refused == SERVERS_DIFFER
    assert merge_rows(other, one) == merged
    assert merge_rows(merged, one) == merged


def test_server_without_key_specs_refuses_the_command() -> None:
    """No key on one server and a key on another is a difference too."""
    merged = merge_rows(row(), row(keys_at(1, 0, "RO", "access")))

    assert place("NEW", merged, is_container=False).refused == SERVERS_DIFFER


@pytest.mark.parametrize(
    ("one", "other", "weaker"),
    [(3, 3, 3), (-3, -3, -3), (3, -3, -3), (3, 4, -3), (-4, -3, -3), (5, -3, -3)],
)
def test_merged_arity_allows_the_calls_of_both_servers(one: int, other: int, weaker: int) -> None:
    """A key that only a longer call has must not count as always there."""
    assert weaker_arity(one, other) == weaker_arity(other, one) == weaker
