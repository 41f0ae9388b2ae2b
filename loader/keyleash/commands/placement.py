"""
From a raw row to a `CommandSpec`: where the keys stand and what each needs, or why not.

A guard walks a call's keys from the first to the last in equal steps; the first
key has one set of needs and all others share another. What does not fit that
walk for every argument list is refused, because a missed key is a missed
permission check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from types import MappingProxyType

from keyleash.commands.rows import CommandRow, KeySpecRow
from keyleash.commands.spec import CommandSpec, KeyRange, OperationClass

SUBCOMMANDS = "sub-commands are not scoped yet"
NO_KEY = "it has no key"
UNPLACED = "its keys cannot be placed"
SERVERS_DIFFER = "servers place its keys differently"
ABSENT = "it may be called without one of its keys"
NOT_ONE_WALK = "its keys do not follow each other"

REFUSING_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "noscript": "it cannot run inside a script",
        "admin": "it administers the server",
        "pubsub": "channels are not scoped",
        "asking": "it belongs to cluster migration",
        "movablekeys": UNPLACED,
    }
)
"""Command flags that refuse, in the order in which their reasons are given."""

LEAVES_DATABASE = "it reaches into another database"
REFUSED: Mapping[str, str] = MappingProxyType({"MOVE": LEAVES_DATABASE})
"""Commands refused by name: a grant is for the keys of the database that the guard is in."""

REFUSED_IF: Mapping[str, str] = MappingProxyType({"COPY": "DB"})
"""Commands refused if they carry this option word, for the same reason."""

KEYLESS_PASSES = frozenset({"PING", "ECHO", "TIME"})
"""They touch no data, and clients cannot do without them."""

READS_IF: Mapping[str, str] = MappingProxyType({"SET": "GET"})
"""Commands whose ACCESS flag holds only if the call carries this option word."""

UNFLAGGED_NEEDS: Mapping[str, tuple[OperationClass, ...]] = MappingProxyType(
    {
        # Both reply with the content of entries and change who owns them, but no
        # server flags ACCESS: a write-only identity could read a stream with them.
        "XAUTOCLAIM": (OperationClass.READ, OperationClass.WRITE),
        "XCLAIM": (OperationClass.READ, OperationClass.WRITE),
    }
)
"""What a command does to its keys beyond what its key-spec flags say."""

CLASS_OF_FLAG: Mapping[str, OperationClass] = MappingProxyType(
    {
        "access": OperationClass.READ,
        "insert": OperationClass.WRITE,
        "update": OperationClass.WRITE,
        "delete": OperationClass.DELETE,
    }
)

# A flag that is in neither set is news from a later server: its keys are not understood.
_CLASSLESS_FLAGS = frozenset({"RO", "RW", "OW", "RM", "variable_flags"})


def place(name: str, row: CommandRow, *, is_container: bool) -> CommandSpec:
    """
    Turn a raw row into the row that guards are compiled from.

    Args:
        name: The command in upper case, a sub-command after its container.
        row: What the servers say of it.
        is_container: Whether the command has sub-commands.

    Returns:
        The command with its key ranges, or with the reason why it is refused.
    """
    ranges: tuple[KeyRange, ...] = ()
    refused = check_command(name, row, is_container=is_container)
    if refused is None and name not in KEYLESS_PASSES:
        key_specs = [spec for spec in row["key_specs"] if "not_key" not in spec["flags"]]
        refused = check_key_specs(key_specs)
        if refused is None:
            ranges = join_ranges([range_of(name, spec) for spec in key_specs])
            refused = check_walk(ranges, fewest=abs(row["arity"]))
    return CommandSpec(
        name=name,
        arity=row["arity"],
        flags=tuple(row["flags"]),
        categories=tuple(row["categories"]),
        ranges=ranges if refused is None else (),
        reads_if=READS_IF.get(name) if refused is None else None,
        refused_if=REFUSED_IF.get(name) if refused is None else None,
        refused=refused,
        servers=tuple(row["servers"]),
    )


def check_command(name: str, row: CommandRow, *, is_container: bool) -> str | None:
    """Say why a command is refused whatever its keys are, or None."""
    if is_container or " " in name:
        return SUBCOMMANDS
    for flag, reason in REFUSING_FLAGS.items():
        if flag in row["flags"]:
            return reason
    return SERVERS_DIFFER if row["positions_differ"] else REFUSED.get(name)


def check_key_specs(key_specs: Sequence[KeySpecRow]) -> str | None:
    """Say why keys cannot be found by counting arguments, or None."""
    if not key_specs:
        return NO_KEY
    return None if all(map(_is_counted, key_specs)) else UNPLACED


def _is_counted(spec: KeySpecRow) -> bool:
    begin, find = spec["begin_search"], spec["find_keys"]
    return (
        begin["type"] == "index"
        and find["type"] == "range"
        # 0 and 1 both mean no limit; 2 takes half of the remaining arguments, and so on.
        and find["spec"]["limit"] in (0, 1)
        and begin["spec"]["index"] >= 1
        and find["spec"]["keystep"] >= 1
        and _CLASSLESS_FLAGS.union(CLASS_OF_FLAG).issuperset(spec["flags"])
    )


def range_of(name: str, spec: KeySpecRow) -> KeyRange:
    """The places of one counted key spec, and what its keys need."""
    first: int = spec["begin_search"]["spec"]["index"]
    last: int = spec["find_keys"]["spec"]["lastkey"]
    return KeyRange(
        first=first,
        # The server counts from the first key, but from the end if it is negative.
        last=last if last < 0 else first + last,
        step=spec["find_keys"]["spec"]["keystep"],
        needs=needs_of(name, spec["flags"]),
    )


def needs_of(name: str, flags: Sequence[str]) -> tuple[OperationClass, ...]:
    """The classes that keys of these flags need, in the order of `OperationClass`."""
    needed = {CLASS_OF_FLAG[flag] for flag in flags if flag in CLASS_OF_FLAG}
    needed.update(UNFLAGGED_NEEDS.get(name, ()))
    if name in READS_IF:
        needed.discard(OperationClass.READ)
    return tuple(cls for cls in OperationClass if cls in needed)


def join_ranges(ranges: Sequence[KeyRange]) -> tuple[KeyRange, ...]:
    """Sort ranges by place and make one of neighbours with equal needs."""

    def join(done: tuple[KeyRange, ...], new: KeyRange) -> tuple[KeyRange, ...]:
        if done and _follows(done[-1], new) and done[-1].needs == new.needs:
            joined = KeyRange(done[-1].first, new.last, new.step, new.needs)
            return (*done[:-1], joined)
        return (*done, new)

    return reduce(join, sorted(ranges, key=lambda keys: keys.first), ())


def check_walk(ranges: Sequence[KeyRange], *, fewest: int) -> str | None:
    """
    Say why a guard cannot walk these ranges, or None.

    Args:
        ranges: Joined ranges, at least one.
        fewest: How many arguments the shortest call has, its name included.
    """
    head, *rest = ranges
    if rest and (len(rest) > 1 or head.first != head.last or not _follows(head, rest[0])):
        return NOT_ONE_WALK
    # The last range may be open and empty (PFMERGE without sources); a key at a
    # counted place, and the first one in any case, must be there in every call.
    walk_end = _place(ranges[-1].last, fewest)
    surely_there = max([head.first, *(keys.last for keys in ranges)])
    if walk_end < head.first or surely_there >= fewest or (rest and walk_end < head.last):
        return ABSENT
    return None


def _follows(one: KeyRange, other: KeyRange) -> bool:
    return one.last >= 0 and one.step == other.step and other.first == one.last + one.step


def _place(index: int, count: int) -> int:
    return index if index >= 0 else count + index
