"""Rows that no server has today: merging and placing stay strict when one appears."""

from __future__ import annotations

from typing import Any

import pytest
from tools.refresh_table import merge_rows, weaker_arity

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.facts import (
    ABSENT,
    CONTAINER,
    NO_KEY,
    NO_SUBCOMMAND,
    NOT_ONE_WALK,
    REFUSED,
    REFUSED_CONTAINERS,
    REFUSING_FLAGS,
    SERVERS_DIFFER,
    UNPLACED,
)
from keyleash.commands.spec import KeyRange, NumberedKeys, OptionKey, Variant
from keyleash.commands.table import CommandRow, KeySpecRow, place, table_of

READ, WRITE = OperationClass.READ, OperationClass.WRITE


def keys_at(first: int, last: int, *flags: str, step: int = 1, limit: int = 0) -> KeySpecRow:
    """A key spec at counted places; *last* counts from *first*, as servers word it."""
    return {
        "flags": sorted(flags),
        "begin_search": {"type": "index", "spec": {"index": first}},
        "find_keys": {"type": "range", "spec": {"lastkey": last, "keystep": step, "limit": limit}},
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

    assert spec.keys == (KeyRange(1, -1, 1, (READ,)),)


def test_first_key_and_the_rest_may_differ() -> None:
    """It is the shape of BITOP and SDIFFSTORE."""
    spec = placed(keys_at(1, 0, "OW", "update"), keys_at(2, -1, "RO", "access"))

    assert spec.keys == (KeyRange(1, 1, 1, (WRITE,)), KeyRange(2, -1, 1, (READ,)))
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
    assert spec.keys == ()


def searching(
    begin: str,
    find: str,
    *flags: str,
    begin_spec: dict[str, Any] | None = None,
    find_spec: dict[str, Any] | None = None,
) -> KeySpecRow:
    """A key spec that reads the arguments; by default like that of GEORADIUS' STORE."""
    word = {"keyword": "STORE", "startfrom": 3}
    here = {"lastkey": 0, "keystep": 1, "limit": 0}
    return {
        "flags": sorted(flags),
        "begin_search": {"type": begin, "spec": word if begin_spec is None else begin_spec},
        "find_keys": {"type": find, "spec": here if find_spec is None else find_spec},
    }


def numkeys_at(index: int, *flags: str, first: int = 1, step: int = 1) -> KeySpecRow:
    """A key spec whose number of keys is an argument; places count from there."""
    return searching(
        "index",
        "keynum",
        *flags,
        begin_spec={"index": index},
        find_spec={"keynumidx": 0, "firstkey": first, "keystep": step},
    )


def test_keys_counted_by_an_argument_are_placed() -> None:
    """It is the shape of ZUNION, and behind a target of ZUNIONSTORE."""
    alone = placed(numkeys_at(1, "RO", "access"), arity=-3)
    behind = placed(keys_at(1, 0, "OW", "update"), numkeys_at(2, "RO", "access", step=2))

    assert alone.keys == (NumberedKeys(1, 2, 1, (READ,)),)
    assert behind.keys == (KeyRange(1, 1, 1, (WRITE,)), NumberedKeys(2, 3, 2, (READ,)))
    assert alone.walk is None
    assert behind.key_slice is None


def test_key_behind_store_is_placed_and_either_word_counts() -> None:
    """It is the shape of GEORADIUS, which servers call incomplete and variable."""
    doubtful = ("OW", "update", "incomplete", "variable_flags")
    other = {"keyword": "STOREDIST", "startfrom": 3}

    spec = placed(
        keys_at(1, 0, "RO", "access"),
        searching("keyword", "range", *doubtful),
        searching("keyword", "range", *doubtful, begin_spec=other),
    )

    option = OptionKey(("STORE", "STOREDIST"), 3, (WRITE,))
    assert spec.keys == (KeyRange(1, 1, 1, (READ,)), option)


@pytest.mark.parametrize(
    "key_spec",
    [
        searching("unknown", "range", "RO", "access", begin_spec={}),
        searching("unknown", "unknown", "RO", "access", begin_spec={}, find_spec={}),
        searching("index", "unknown", "RO", "access", begin_spec={"index": 1}, find_spec={}),
        searching("keyword", "keynum", "RO", "access"),
        searching("keyword", "range", "RO", "access", "a_flag_of_tomorrow"),
        searching(
            "keyword", "range", "RO", "access", begin_spec={"keyword": "INTO", "startfrom": 3}
        ),
        searching(
            "keyword", "range", "RO", "access", begin_spec={"keyword": "STORE", "startfrom": -2}
        ),
        searching(
            "keyword", "range", "RO", find_spec={"lastkey": 1, "keystep": 1, "limit": 0}
        ),
        searching(
            "keyword", "range", "RO", begin_spec={"keyword": "STREAMS", "startfrom": 1},
            find_spec={"lastkey": -1, "keystep": 1, "limit": 2},
        ),
        numkeys_at(1, "RO", "access", "incomplete"),
        numkeys_at(1, "RO", "access", "variable_flags"),
        numkeys_at(1, "RO", "access", step=0),
        numkeys_at(0, "RO", "access"),
    ],
)  # fmt: skip
def test_search_that_is_not_known_is_refused(key_spec: KeySpecRow) -> None:
    """The meaning of an option of a new command is unknown, even if other commands have it."""
    spec = placed(keys_at(1, 0, "RO", "access"), key_spec)

    assert spec.refused == UNPLACED
    assert spec.keys == ()


@pytest.mark.parametrize(
    "key_specs",
    [
        (numkeys_at(1, "RO", "access"), numkeys_at(2, "RW", "update")),
        (keys_at(1, -1, "RO", "access"), numkeys_at(2, "RW", "update")),
        (keys_at(1, 1, "RO", "access"), numkeys_at(3, "RW", "update")),
        (keys_at(4, 0, "RO", "access"), numkeys_at(5, "RW", "update")),
        (keys_at(1, 0, "RO"), keys_at(2, 0, "RW"), numkeys_at(3, "RW", "update")),
        (keys_at(1, 0, "RO"), searching("keyword", "range", "OW"), numkeys_at(3, "RW", "update")),
    ],
)
def test_searches_that_a_guard_cannot_do_together_are_refused(
    key_specs: tuple[KeySpecRow, ...],
) -> None:
    """A guard looks for one key at a counted place, which every call has, and for the rest."""
    assert placed(*key_specs).refused == NOT_ONE_WALK


@pytest.mark.parametrize("flag", REFUSING_FLAGS)
def test_command_flag_refuses_whatever_the_keys(flag: str) -> None:
    """These commands reach beyond their keys, or do not run in a script."""
    assert placed(keys_at(1, 0, "RO", "access"), flags=(flag,)).refused == REFUSING_FLAGS[flag]


def test_container_is_refused_and_its_sub_commands_are_placed() -> None:
    """The effect of a container depends on the sub-command, so only sub-commands have keys."""
    key = keys_at(2, 0, "RO", "access")

    table = table_of(["redis 1"], {"BOX": row(), "BOX OPEN": row(key), "BOX HELP": row()})

    assert table.containers == {"BOX"}
    assert table.commands["BOX"].refused == CONTAINER
    assert table.commands["BOX OPEN"].keys == (KeyRange(2, 2, 1, (READ,)),)
    assert table.commands["BOX HELP"].refused == NO_KEY
    assert table.key_slices == {}


def test_container_without_a_placed_sub_command_has_a_reason_of_its_own() -> None:
    """To name one of them would not help."""
    table = table_of(["redis 1"], {"BOX": row(), "BOX HELP": row(), "BOX LIST": row()})

    assert table.commands["BOX"].refused == NO_SUBCOMMAND


@pytest.mark.parametrize("container", REFUSED_CONTAINERS)
def test_sub_command_of_a_refused_container_is_refused(container: str) -> None:
    """Whatever a later server adds to SCRIPT or CLIENT is refused from the start."""
    spec = place(f"{container} NEW", row(keys_at(2, 0, "RO")), is_container=False)

    assert spec.refused == REFUSED_CONTAINERS[container]


@pytest.mark.parametrize("name", REFUSED)
def test_command_refused_by_name_stays_so_if_a_server_gives_it_a_key(name: str) -> None:
    """The reason is what it does, not where its keys are."""
    spec = place(name, row(keys_at(1, 0, "RO", "access")), is_container=False)

    assert spec.refused == REFUSED[name]


def test_module_command_is_taken_to_have_its_first_key() -> None:
    """A module declares no arity; without a key there is nothing that it could touch."""
    key = keys_at(1, 0, "RW", "access", "update")

    assert placed(key, arity=-1).refused == ABSENT
    assert placed(key, arity=-1, flags=("module",)).keys == (KeyRange(1, 1, 1, (READ, WRITE)),)
    assert placed(keys_at(2, 0, "RW"), arity=-1, flags=("module",)).refused == ABSENT


def test_flags_that_vary_are_understood_of_known_commands_only() -> None:
    """The needs of calls are known for SET and BITFIELD only."""
    key = keys_at(1, 0, "RW", "access", "update", "variable_flags")

    assert placed(key).refused == UNPLACED
    assert place("SET", row(key), is_container=False).variant == Variant("GET", (READ, WRITE))
    assert place("BITFIELD", row(key), is_container=False).variant == Variant(None, (READ,))


def test_merged_flags_add_up() -> None:
    """A key needs what any of the servers says it needs."""
    writing = row(keys_at(1, 0, "OW", "update"), flags=("write",))
    other = row(keys_at(1, 0, "RW", "access", "update"), flags=("denyoom",))

    merged = merge_rows(writing, other)

    assert merged["flags"] == ["denyoom", "write"]
    assert place("NEW", merged, is_container=False).needs == (READ, WRITE)


def test_servers_that_place_keys_differently_refuse_the_command() -> None:
    """One guard cannot be right on both."""
    first, other = row(keys_at(1, 0, "RO", "access")), row(keys_at(2, 0, "RO", "access"))

    merged = merge_rows(first, other)

    assert place("NEW", merged, is_container=False).refused == SERVERS_DIFFER
    assert merge_rows(other, first) == merged
    assert merge_rows(merged, first) == merged


def test_server_without_key_specs_refuses_the_command() -> None:
    """No key on one server and a key on another is a difference too."""
    merged = merge_rows(row(), row(keys_at(1, 0, "RO", "access")))

    assert place("NEW", merged, is_container=False).refused == SERVERS_DIFFER


@pytest.mark.parametrize(
    ("arity", "other", "weaker"),
    [(3, 3, 3), (-3, -3, -3), (3, -3, -3), (3, 4, -3), (-4, -3, -3), (5, -3, -3)],
)
def test_merged_arity_allows_the_calls_of_both_servers(arity: int, other: int, weaker: int) -> None:
    """A key that only a longer call has must not count as always there."""
    assert weaker_arity(arity, other) == weaker_arity(other, arity) == weaker
