"""The effect of each command on its keys, from Redis's own key specs."""

from keyleash.commands.keys import KeyUse, keys_of
from keyleash.commands.spec import CHANNEL_CLASSES, CommandSpec, CommandTable, OperationClass
from keyleash.commands.table import known_table, load_table

__all__ = [
    "CHANNEL_CLASSES",
    "CommandSpec",
    "CommandTable",
    "KeyUse",
    "OperationClass",
    "keys_of",
    "known_table",
    "load_table",
]
