"""The effect of each command on its keys, from Redis's own key specs."""

from keyleash.commands.keys import KeyUse, keys_of
from keyleash.commands.spec import CommandSpec, CommandTable, KeyRange, OperationClass
from keyleash.commands.table import load_table

__all__ = [
    "CommandSpec",
    "CommandTable",
    "KeyRange",
    "KeyUse",
    "OperationClass",
    "keys_of",
    "load_table",
]
