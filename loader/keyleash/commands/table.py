"""The shipped command table: rows of `table.json`, placed as `CommandSpec`s."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

from keyleash.commands.facts import (
    ABSENT,
    CHANNELS,
    CLASS_OF_FLAG,
    CONTAINER,
    KEYLESS_PASSES,
    NAMED_ONLY,
    NO_KEY,
    NO_SUBCOMMAND,
    NOT_ONE_WALK,
    REFUSED,
    REFUSED_CONTAINERS,
    REFUSED_IF,
    REFUSING_FLAGS,
    SCANS,
    SERVERS_DIFFER,
    STORES,
    STREAM_OPTIONS,
    UNFLAGGED_NEEDS,
    UNPLACED,
    VARIANTS,
    VECTOR_SETS,
    WAITS,
)
from keyleash.commands.spec import (
    CommandSpec,
    CommandTable,
    KeyRange,
    KeySearch,
    Needs,
    NumberedKeys,
    OperationClass,
    OptionKey,
    StreamKeys,
)
from keyleash.commands.work import COSTS, LENGTHENS, WORK

# The raw rows of `table.json`, and how those of several servers become one.
#
# Every step of a merge goes to the strict side, so that a guard is safe on each of
# the servers: flags add up, the weaker arity is believed, and key specs that stand
# at different places are all kept and marked, which refuses the command.


class SearchRow(TypedDict):
    """`begin_search` or `find_keys` of a key spec, in the server's words."""

    type: str
    spec: dict[str, Any]


class KeySpecRow(TypedDict):
    """One key spec: what happens to the keys, and where they stand."""

    flags: list[str]
    begin_search: SearchRow
    find_keys: SearchRow


class CommandRow(TypedDict):
    """One command or sub-command; see the legend in `table.json`."""

    arity: int
    flags: list[str]
    categories: list[str]
    servers: list[str]
    key_specs: list[KeySpecRow]
    positions_differ: bool


Rows = Mapping[str, CommandRow]


def merge_tables(tables: Iterable[Rows]) -> dict[str, CommandRow]:
    """
    Make one table of several servers' rows.

    Args:
        tables: Rows by command name, one mapping per server (or merged before).

    Returns:
        Every command of any server, sorted by name.
    """
    merged: dict[str, CommandRow] = {}
    for table in tables:
        for name, row in table.items():
            merged[name] = merge_rows(merged[name], row) if name in merged else row
    return dict(sorted(merged.items()))


def merge_rows(command_row: CommandRow, other: CommandRow) -> CommandRow:
    """
    Make one row of two servers' rows for the same command.

    The order of the arguments does not matter, and a row merged with itself stays
    as it is: that is how a test sees that a server still says what the table says.
    """
    agree = (
        positions_of(command_row) == positions_of(other)
        and not command_row["positions_differ"]
        and not other["positions_differ"]
    )
    return {
        "arity": weaker_arity(command_row["arity"], other["arity"]),
        "flags": _union(command_row["flags"], other["flags"]),
        "categories": _union(command_row["categories"], other["categories"]),
        "servers": _union(command_row["servers"], other["servers"]),
        "key_specs": (
            list(map(_merge_key_specs, command_row["key_specs"], other["key_specs"]))
            if agree
            else _distinct([*command_row["key_specs"], *other["key_specs"]])
        ),
        "positions_differ": not agree,
    }


def positions_of(row: CommandRow) -> list[tuple[SearchRow, SearchRow]]:
    """Where a row's key specs look for keys, whatever happens to these."""
    return [(spec["begin_search"], spec["find_keys"]) for spec in row["key_specs"]]


def weaker_arity(item: int, other: int) -> int:
    """The arity that every call allowed by either of two arities meets."""
    return item if item == other else -min(abs(item), abs(other))


def _merge_key_specs(key_spec_row: KeySpecRow, other: KeySpecRow) -> KeySpecRow:
    return {**key_spec_row, "flags": _union(key_spec_row["flags"], other["flags"])}


def _distinct(specs: list[KeySpecRow]) -> list[KeySpecRow]:
    by_text = {json.dumps(spec, sort_keys=True): spec for spec in specs}
    return [spec for _, spec in sorted(by_text.items())]


def _union(item: Iterable[str], other: Iterable[str]) -> list[str]:
    return sorted({*item, *other})


# From a raw row to a `CommandSpec`: where the keys stand and what each needs, or why not.
#
# A guard looks for a call's keys with one search, or with two of which the first finds
# one key: so the first key has one set of needs and all others share another. What
# does not fit that for every argument list is refused, because a missed key is a
# missed permission check.

# A flag that is in neither set is news from a later server: its keys are not understood.
_CLASSLESS_FLAGS = frozenset({"RO", "RW", "OW", "RM"})
_DOUBTFUL_FLAGS = frozenset({"incomplete", "variable_flags"})


def place(name: str, row: CommandRow, *, is_container: bool) -> CommandSpec:
    """
    Turn a raw row into the row that guards are compiled from.

    Args:
        name: The command in upper case, a sub-command after its container.
        row: What the servers say of it.
        is_container: Whether the command has sub-commands.

    Returns:
        The command with its key searches, or with the reason why it is refused.
    """
    facts = CommandSpec(
        name=name,
        arity=row["arity"],
        flags=tuple(row["flags"]),
        categories=tuple(row["categories"]),
        servers=tuple(row["servers"]),
    )
    keys: tuple[KeySearch, ...] = ()
    refused = check_command(name, row, is_container=is_container)
    has_keys = not (name in KEYLESS_PASSES or name in CHANNELS or name in SCANS)
    if refused is None and has_keys:
        key_specs = [spec for spec in row["key_specs"] if "not_key" not in spec["flags"]]
        keys = STORES.get(name) or searches_of(name, key_specs)
        refused = check_key_specs(name, key_specs) or check_searches(keys, fewest_arguments(row))
    if refused is not None:
        return replace(facts, refused=refused)
    return replace(
        facts,
        keys=keys,
        variant=VARIANTS.get(name),
        refused_if=REFUSED_IF.get(name, ()),
        channel=CHANNELS.get(name),
        scans=name in SCANS,
        waits=WAITS.get(name),
        named_only=name in NAMED_ONLY or ("module" in row["flags"] and name not in VECTOR_SETS),
        cost=COSTS.get(name),
        work=WORK.get(name),
        lengthens=LENGTHENS.get(name),
    )


def check_command(name: str, row: CommandRow, *, is_container: bool) -> str | None:
    """Say why a command is refused whatever its keys are, or None."""
    container = name.partition(" ")[0]
    reason = REFUSED.get(name) or REFUSED_CONTAINERS.get(container)
    if reason is not None:
        return reason
    if is_container:
        return CONTAINER
    if name in CHANNELS:
        return None
    for flag, reason in REFUSING_FLAGS.items():
        if flag in row["flags"]:
            return reason
    return SERVERS_DIFFER if row["positions_differ"] else None


def check_key_specs(name: str, key_specs: Sequence[KeySpecRow]) -> str | None:
    """Say why the key specs do not tell all keys of every call, or None."""
    if not key_specs:
        return NO_KEY
    known = name in STORES or all(_is_understood(name, spec) for spec in key_specs)
    return None if known else UNPLACED


def _is_understood(name: str, spec: KeySpecRow) -> bool:
    flags = set(spec["flags"])
    match spec["begin_search"]["type"], spec["find_keys"]["type"]:
        case "index", "range":
            # 0 and 1 both mean no limit; 2 takes half of the remaining arguments, and so on.
            found = spec["find_keys"]["spec"]["limit"] in (0, 1) and _steps(spec)
            flags -= {"variable_flags"} if name in VARIANTS else set()
        case "index", "keynum":
            found = _steps(spec)
        case "keyword", "range":
            found = name in STREAM_OPTIONS or _is_option_key(spec)
            # Redis calls a keyword incomplete because it may be the value of an option.
            flags -= _DOUBTFUL_FLAGS
        case _:
            found = False
    return found and _CLASSLESS_FLAGS.union(CLASS_OF_FLAG).issuperset(flags)


def _steps(spec: KeySpecRow) -> bool:
    return bool(
        spec["begin_search"]["spec"]["index"] >= 1 and spec["find_keys"]["spec"]["keystep"] >= 1
    )


def _is_option_key(spec: KeySpecRow) -> bool:
    return (
        spec["begin_search"]["spec"]["startfrom"] >= 1
        and spec["find_keys"]["spec"]["lastkey"] == 0
        # A word that another server may give a meaning: only those that are known to store.
        and spec["begin_search"]["spec"]["keyword"] in ("STORE", "STOREDIST")
    )


def searches_of(name: str, key_specs: Sequence[KeySpecRow]) -> tuple[KeySearch, ...]:
    """The searches that key specs describe, as few as possible; those not understood left out."""
    understood = [spec for spec in key_specs if _is_understood(name, spec)]
    return join_searches([_search_of(name, spec) for spec in understood])


def _search_of(name: str, spec: KeySpecRow) -> KeySearch:
    begin, find = spec["begin_search"]["spec"], spec["find_keys"]["spec"]
    needs = needs_of(name, spec["flags"])
    match spec["begin_search"]["type"], spec["find_keys"]["type"]:
        case "index", "range":
            first, last = int(begin["index"]), int(find["lastkey"])
            # The server counts from the first key, but from the end if it is negative.
            return KeyRange(first, last if last < 0 else first + last, find["keystep"], needs)
        case "index", "keynum":
            count_at = begin["index"] + find["keynumidx"]
            first = begin["index"] + find["firstkey"]
            return NumberedKeys(count_at, first, find["keystep"], needs)
        case _ if name in STREAM_OPTIONS:
            return StreamKeys(STREAM_OPTIONS[name], needs)
        case _:
            return OptionKey((begin["keyword"],), begin["startfrom"], needs)


def needs_of(name: str, flags: Sequence[str]) -> Needs:
    """The classes that keys of these flags need, in the order of `OperationClass`."""
    needed = {CLASS_OF_FLAG[flag] for flag in flags if flag in CLASS_OF_FLAG}
    if name in UNFLAGGED_NEEDS:
        needed = {*UNFLAGGED_NEEDS[name]} | (needed & {OperationClass.DELETE})
    return tuple(cls for cls in OperationClass if cls in needed)


def join_searches(searches: Sequence[KeySearch]) -> tuple[KeySearch, ...]:
    """Sort searches by place and make one of neighbours that are one with equal needs."""

    def join(done: tuple[KeySearch, ...], new: KeySearch) -> tuple[KeySearch, ...]:
        match done[-1] if done else None, new:
            case KeyRange() as last, KeyRange() if _follows(last, new) and last.needs == new.needs:
                return (*done[:-1], KeyRange(last.first, new.last, new.step, new.needs))
            case OptionKey(words, start, needs), OptionKey() if (start, needs) == (
                new.start,
                new.needs,
            ):
                return (*done[:-1], OptionKey((*words, *new.words), start, needs))
        return (*done, new)

    return reduce(join, sorted(searches, key=_place_of), ())


def _place_of(search: KeySearch) -> int:
    match search:
        case KeyRange(first=first) | NumberedKeys(first=first):
            return first
        case OptionKey(start=start):
            return start
        case StreamKeys():
            return 1


def fewest_arguments(row: CommandRow) -> int:
    """How many arguments the shortest call has, its name included."""
    if "module" in row["flags"]:
        # A module checks its arguments itself and declares no arity; a call without its
        # one key names nothing that it could touch.
        return max(2, abs(row["arity"]))
    return abs(row["arity"])


def check_searches(searches: Sequence[KeySearch], fewest: int) -> str | None:
    """
    Say why a guard cannot look for keys in this way, or None.

    Args:
        searches: Joined searches.
        fewest: How many arguments the shortest call has, its name included.
    """
    match searches:
        case [KeyRange() as head, KeyRange() as tail] if _follows(head, tail):
            return _check_walk(head, tail, fewest) if head.first == head.last else NOT_ONE_WALK
        case [KeyRange() as head]:
            return _check_walk(head, head, fewest)
        case [NumberedKeys() | OptionKey() | StreamKeys()]:
            return None
        case [KeyRange() as head, NumberedKeys() | OptionKey() | StreamKeys()]:
            one_key = head.first == head.last
            return None if one_key and head.first < fewest else NOT_ONE_WALK
    return NOT_ONE_WALK


def _check_walk(head: KeyRange, tail: KeyRange, fewest: int) -> str | None:
    # The last range may be open and empty (PFMERGE without sources); a key at a
    # counted place, and the first one in any case, must be there in every call.
    walk_end = _place(tail.last, fewest)
    surely_there = max(head.first, head.last, tail.last)
    if walk_end < head.first or surely_there >= fewest:
        return ABSENT
    return ABSENT if tail is not head and walk_end < head.last else None


def _follows(key_range: KeyRange, other: KeyRange) -> bool:
    return (
        key_range.last >= 0
        and key_range.step == other.step
        and other.first == key_range.last + key_range.step
    )


def _place(index: int, count: int) -> int:
    return index if index >= 0 else count + index


TABLE_PATH = Path(__file__).with_name("table.json")


@cache
def load_table() -> CommandTable:
    """The table that ships with keyleash, read once per process."""
    raw = json.loads(TABLE_PATH.read_text(encoding="utf-8"))
    return table_of(raw["servers"], raw["commands"])


def table_of(servers: Sequence[str], rows: Rows) -> CommandTable:
    """
    Place the keys of every command.

    Args:
        servers: Labels of the servers that the rows come from.
        rows: Raw rows by command name.

    Returns:
        All commands, those that guards refuse included.
    """
    containers = {name.partition(" ")[0] for name in rows if " " in name}
    commands = {
        name: place(name, row, is_container=name in containers) for name, row in rows.items()
    }
    for container in containers:
        parts = (spec for name, spec in commands.items() if name.startswith(f"{container} "))
        if commands[container].refused == CONTAINER and all(spec.refused for spec in parts):
            commands[container] = replace(commands[container], refused=NO_SUBCOMMAND)
    return CommandTable(servers=tuple(servers), commands=MappingProxyType(commands))
