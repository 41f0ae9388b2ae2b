"""The shipped command table, ready to use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from keyleash.commands.facts import CONTAINER, NO_SUBCOMMAND
from keyleash.commands.placement import place
from keyleash.commands.rows import Rows
from keyleash.commands.spec import CommandTable

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
