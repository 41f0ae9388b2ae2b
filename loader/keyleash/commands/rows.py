"""
The raw rows of `table.json`, and how those of several servers become one.

Every step of a merge goes to the strict side, so that a guard is safe on each of
the servers: flags add up, the weaker arity is believed, and key specs that stand
at different places are all kept and marked, which refuses the command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict


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


def merge_rows(one: CommandRow, other: CommandRow) -> CommandRow:
    """
    Make one row of two servers' rows for the same command.

    The order of the arguments does not matter, and a row merged with itself stays
    as it is: that is how a test sees that a server still says what the table says.
    """
    agree = (
        positions_of(one) == positions_of(other)
        and not one["positions_differ"]
        and not other["positions_differ"]
    )
    return {
        "arity": weaker_arity(one["arity"], other["arity"]),
        "flags": _union(one["flags"], other["flags"]),
        "categories": _union(one["categories"], other["categories"]),
        "servers": _union(one["servers"], other["servers"]),
        "key_specs": (
            list(map(_merge_key_specs, one["key_specs"], other["key_specs"]))
            if agree
            else _distinct([*one["key_specs"], *other["key_specs"]])
        ),
        "positions_differ": not agree,
    }


def positions_of(row: CommandRow) -> list[tuple[SearchRow, SearchRow]]:
    """Where a row's key specs look for keys, whatever happens to these."""
    return [(spec["begin_search"], spec["find_keys"]) for spec in row["key_specs"]]


def weaker_arity(one: int, other: int) -> int:
    """The arity that every call allowed by either of two arities meets."""
    return one if one == other else -min(abs(one), abs(other))


def _merge_key_specs(one: KeySpecRow, other: KeySpecRow) -> KeySpecRow:
    return {**one, "flags": _union(one["flags"], other["flags"])}


def _distinct(specs: list[KeySpecRow]) -> list[KeySpecRow]:
    by_text = {json.dumps(spec, sort_keys=True): spec for spec in specs}
    return [spec for _, spec in sorted(by_text.items())]


def _union(one: Iterable[str], other: Iterable[str]) -> list[str]:
    return sorted({*one, *other})
