"""The shipped command table, `table.json`, and the `CommandSpec` of each of its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, reduce
from pathlib import Path
from typing import Any, TypedDict

from keyleash.commands.facts import (
    ABSENT,
    CHANNELS,
    CLASS_OF_FLAG,
    CONTAINER,
    COUNTS_SUBSCRIBERS,
    INDEXES,
    KEYLESS_PASSES,
    MODULE_KEYS,
    NAMED_ONLY,
    NO_KEY,
    NO_SUBCOMMAND,
    NOT_ONE_WALK,
    PATTERNS,
    REFUSED,
    REFUSED_CONTAINERS,
    REFUSED_IF,
    REFUSING_FLAGS,
    SCANS,
    SERVERS_DIFFER,
    STORES,
    STREAM_OPTIONS,
    SUBSCRIPTIONS,
    UNCHECKED,
    UNFLAGGED_NEEDS,
    UNPLACED,
    VARIANTS,
    VECTOR_SETS,
    WAITS,
    is_unchecked,
)
from keyleash.commands.keys import key_places
from keyleash.commands.spec import (
    CHANGING,
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
from keyleash.commands.work import LENGTHENS, WORK


class SearchRow(TypedDict):
    """`begin_search` or `find_keys` of a key spec, as in the reply to COMMAND."""

    type: str
    spec: dict[str, Any]


class KeySpecRow(TypedDict):
    """One key spec: the flags of the keys, and their places."""

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


# A guard looks for a call's keys with one search, or with two of which the first finds
# one key: so the first key has one set of needs and all others share another. A command
# that does not fit this for every argument list is refused, because a missed key is a
# missed permission check.

# The keys of a flag in neither set, from a later server, are not understood.
_CLASSLESS_FLAGS = frozenset({"RO", "RW", "OW", "RM"})
_DOUBTFUL_FLAGS = frozenset({"incomplete", "variable_flags"})
# Compares the keys that a server declares for a command with the reviewed ones.
_ANY_CALL = [b"9"] * 12


def place(name: str, row: CommandRow, *, is_container: bool) -> CommandSpec:
    """Return the `CommandSpec` of a raw row: its key searches, or the reason why it is refused.

    Args:
        name: The command in upper case, a sub-command after its container.
        is_container: Whether the command has sub-commands.
    """
    flags, index = row["flags"], INDEXES.get(name)
    if index is not None:
        # The module declares some changes as reads.
        changing = {"readonly"} if index is OperationClass.READ else {"write"}
        flags = sorted({*flags} - {"readonly", "write"} | changing)
    spec = CommandSpec(
        name=name,
        arity=row["arity"],
        flags=tuple(flags),
        categories=tuple(row["categories"]),
        servers=tuple(row["servers"]),
    )
    keys: tuple[KeySearch, ...] = ()
    refused = check_command(name, row, is_container=is_container)
    has_keys = not (index or name in KEYLESS_PASSES or name in CHANNELS or name in SCANS)
    if refused is None and has_keys:
        key_specs = [item for item in row["key_specs"] if "not_key" not in item["flags"]]
        keys = STORES.get(name) or searches_of(name, key_specs)
        if name in MODULE_KEYS:
            reviewed, declared = (
                {*key_places(replace(spec, keys=some), _ANY_CALL)}
                for some in (MODULE_KEYS[name], keys)
            )
            keys, refused = MODULE_KEYS[name], None if declared <= reviewed else SERVERS_DIFFER
            if any(not CHANGING.isdisjoint(search.needs) for search in keys):
                # Modules flag some changes as reads.
                spec = replace(spec, flags=tuple(item for item in spec.flags if item != "readonly"))
        else:
            refused = check_key_specs(name, key_specs)
            refused = refused or check_searches(keys, fewest_arguments(row))
    if refused is not None:
        return replace(spec, refused=refused)
    return replace(
        spec,
        keys=keys,
        variant=VARIANTS.get(name),
        refused_if=REFUSED_IF.get(name, ()),
        patterns=PATTERNS.get(name, ()),
        channel=CHANNELS.get(name),
        subscribes=SUBSCRIPTIONS.get(name),
        counts=name in COUNTS_SUBSCRIBERS,
        scans=name in SCANS,
        index=index,
        waits=WAITS.get(name),
        named_only=name in NAMED_ONLY
        or (is_of_module(name, row) and not index and name not in MODULE_KEYS),
        work=WORK.get(name),
        lengthens=LENGTHENS.get(name),
    )


def check_command(name: str, row: CommandRow, *, is_container: bool) -> str | None:
    """Return the reason why a command is refused whatever its keys are, or None."""
    container = name.partition(" ")[0]
    reason = REFUSED.get(name) or REFUSED_CONTAINERS.get(container)
    if is_unchecked(name):
        reason = UNCHECKED
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
    """Return the reason why the key specs do not cover all keys of every call, or None."""
    if not key_specs:
        return NO_KEY
    known = name in STORES or all(_search_of(name, spec) for spec in key_specs)
    return None if known else UNPLACED


def searches_of(name: str, key_specs: Sequence[KeySpecRow]) -> tuple[KeySearch, ...]:
    """Return the fewest searches for the key specs that are understood."""
    searches = (_search_of(name, spec) for spec in key_specs)
    return join_searches([search for search in searches if search is not None])


def _search_of(name: str, spec: KeySpecRow) -> KeySearch | None:
    """Return the search for a key spec; None if it is not understood."""
    begin, find = spec["begin_search"]["spec"], spec["find_keys"]["spec"]
    flags, needs = {*spec["flags"]}, needs_of(name, spec["flags"])
    search: KeySearch | None = None
    match spec["begin_search"]["type"], spec["find_keys"]["type"]:
        case "index", "range":
            flags -= {"variable_flags"} if name in VARIANTS else set()
            first, last = int(begin["index"]), int(find["lastkey"])
            # A `limit` of 0 or 1 means no limit; 2 takes half of the remaining arguments, and so
            # on. `lastkey` counts from the first key; if it is negative, from the end.
            if find["limit"] in (0, 1) and first >= 1 and find["keystep"] >= 1:
                last = last if last < 0 else first + last
                search = KeyRange(first, last, find["keystep"], needs)
        case "index", "keynum" if begin["index"] >= 1 and find["keystep"] >= 1:
            count_at = begin["index"] + find["keynumidx"]
            first = begin["index"] + find["firstkey"]
            search = NumberedKeys(count_at, first, find["keystep"], needs)
        case "keyword", "range":
            # Redis calls a keyword incomplete because it may be the value of an option.
            flags -= _DOUBTFUL_FLAGS
            # Only words that are known to store: a server may give others a new meaning.
            stores = begin["keyword"] in ("STORE", "STOREDIST")
            if name in STREAM_OPTIONS:
                search = StreamKeys(STREAM_OPTIONS[name], needs)
            elif stores and begin["startfrom"] >= 1 and find["lastkey"] == 0:
                search = OptionKey((begin["keyword"],), begin["startfrom"], needs)
    return search if _CLASSLESS_FLAGS.union(CLASS_OF_FLAG).issuperset(flags) else None


def needs_of(name: str, flags: Sequence[str]) -> Needs:
    """Return the classes that keys with these flags need, in the order of `OperationClass`."""
    needed = {CLASS_OF_FLAG[flag] for flag in flags if flag in CLASS_OF_FLAG}
    if name in UNFLAGGED_NEEDS:
        needed = {*UNFLAGGED_NEEDS[name]} | (needed & {OperationClass.DELETE})
    return tuple(cls for cls in OperationClass if cls in needed)


def join_searches(searches: Sequence[KeySearch]) -> tuple[KeySearch, ...]:
    """Sort searches by place, and join neighbours with equal needs."""

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
    """Return the number of arguments of the shortest call, its name included."""
    if "module" in row["flags"]:
        # A module checks its arguments itself and declares no arity; a call without its
        # one key can touch nothing.
        return max(2, abs(row["arity"]))
    return abs(row["arity"])


def check_searches(searches: Sequence[KeySearch], fewest: int) -> str | None:
    """Return the reason why a guard cannot look for keys by joined *searches*, or None.

    Args:
        fewest: The number of arguments of the shortest call, its name included.
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
    # The last range may be open and empty (PFMERGE without sources). Every call must have
    # the first key and all keys at fixed places.
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


@lru_cache(maxsize=4)
def without_indexes(table: CommandTable, reason: str) -> CommandTable:
    """Return the table of a server whose guards refuse all commands of indexes."""
    specs = [spec for spec in table if spec.index is not None]
    refused = {spec.name: replace(spec, refused=reason, index=None) for spec in specs}
    return table.extended(refused) if refused else table


TABLE_PATH = Path(__file__).with_name("table.json")
MODULES_PATH = Path(__file__).with_name("modules.json")


@cache
def load_table() -> CommandTable:
    """Return the table of servers without modules that ships with keyleash."""
    return _read(TABLE_PATH)


@cache
def known_table() -> CommandTable:
    """Return `load_table` extended by the commands of the modules that keyleash knows."""
    return load_table().extended(_read(MODULES_PATH).commands)


def _read(path: Path) -> CommandTable:
    raw = json.loads(path.read_text(encoding="utf-8"))
    return table_of(raw["servers"], raw["commands"])


def is_of_module(name: str, row: CommandRow) -> bool:
    """Return whether a command is of a loaded module; Redis 8 has vector sets built in."""
    return "module" in row["flags"] and name not in VECTOR_SETS


def table_of(servers: Sequence[str], rows: Rows) -> CommandTable:
    """Return the table of raw *rows* from *servers*, with the commands that guards refuse."""
    containers = {name.partition(" ")[0] for name in rows if " " in name}
    commands = {
        name: place(name, row, is_container=name in containers) for name, row in rows.items()
    }
    for container in containers:
        parts = (spec for name, spec in commands.items() if name.startswith(f"{container} "))
        if commands[container].refused == CONTAINER and all(spec.refused for spec in parts):
            commands[container] = replace(commands[container], refused=NO_SUBCOMMAND)
    return CommandTable(servers=tuple(servers), commands=commands)
