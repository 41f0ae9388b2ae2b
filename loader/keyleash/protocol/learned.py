"""
What a guard record tells wrappers of commands that they cannot know.

A wrapper declares the keys of each call, and finds them by the shipped table. A server
may have commands that this table lacks, those of a module or of a later version, or
whose keys stand elsewhere. Where the guard looks for the keys of these is in the field
`commands` of the record: `{"NAME": [["range", first, last, step], …]}`, the fields of
each search in the order of its class, without its needs. The field is empty as a rule.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import lru_cache
from typing import Any

from keyleash.commands import CommandSpec, CommandTable, load_table
from keyleash.commands.spec import KeyRange, KeySearch, NumberedKeys, OptionKey, StreamKeys

_KINDS: dict[str, Callable[..., KeySearch]] = {
    kind.kind: kind for kind in (KeyRange, NumberedKeys, OptionKey, StreamKeys)
}


def commands_to_learn(server: CommandTable) -> str:
    """The field `commands` of the records of guards that were compiled against *server*."""
    shipped = load_table()
    searches = {
        spec.name: [_packed(search) for search in spec.keys]
        for spec in server
        if spec.refused is None and spec.keys and _keys(shipped.get(spec.name)) != spec.keys
    }
    return json.dumps(searches, separators=(",", ":"), sort_keys=True) if searches else ""


@lru_cache(maxsize=16)
def learned_table(commands: str) -> CommandTable:
    """The shipped table with what the field *commands* of a guard record adds to it."""
    shipped = load_table()
    if not commands:
        return shipped
    return shipped.extended(
        {
            name: replace(_known(name, shipped), refused=None, keys=tuple(map(_read, searches)))
            for name, searches in json.loads(commands).items()
            # A later loader may know of searches that this wrapper does not.
            if all(search[0] in _KINDS for search in searches)
        }
    )


def _keys(spec: CommandSpec | None) -> tuple[KeySearch, ...] | None:
    return spec.keys if spec is not None else None


def _known(name: str, shipped: CommandTable) -> CommandSpec:
    return shipped.get(name) or CommandSpec(name, arity=-1, flags=(), categories=())


def _packed(search: KeySearch) -> list[Any]:
    *places, _needs = astuple(search)
    return [search.kind, *places]


def _read(packed: list[Any]) -> KeySearch:
    kind, *places = packed
    return _KINDS[kind](*map(_tuples, places), ())


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
