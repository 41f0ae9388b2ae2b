"""The right that a server's ACL denied, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from keyleash.commands import load_table
from keyleash.store import scripts
from keyleash.store.keyspace import script_digest
from keyleash.store.live_table import reply_text
from keyleash.store.scripts import OperatorScript
from keyleash.store.server_check import IN_SCRIPT
from keyleash.store.wire import declared_keys
from keyleash.text import printable

_COMMAND = re.compile("permissions to run the '([^']*)' command")
MOST_NAMED = 3
"""Keys in a message at most, except those of a script."""


def missing_right(error: Exception) -> str:
    """Return the right that a server denied: a command, or a command on keys.

    Servers do not name the key, so all keys of the call are named.

    Returns:
        Text with names in backticks; empty if the error names none.
    """
    message, call = str(error), getattr(error, "call", ())
    name, *words = [reply_text(word) for word in call] or [""]
    script = _script_of(name, words)
    if command := _COMMAND.search(message):
        where = f" in the script `{script.name}`" if script and IN_SCRIPT in message else ""
        return f"the command `{printable(command[1])}`{where}"
    if IN_SCRIPT in message:
        if script is None:
            return ""
        return f"a key of the script `{script.name}`: one of {_listed(_used_by(script, words))}"
    # An error of a login has no call.
    keys = _keys_of(name, words) if name else []
    shown = _listed(keys[:MOST_NAMED])
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return f"`{name}` on {'one of ' if len(keys) > 1 else ''}{shown}{more}" if keys else ""


def _script_of(name: str, words: Sequence[str]) -> OperatorScript | None:
    """Return the operators' script that a call runs."""
    for item in vars(scripts).values():
        if isinstance(item, OperatorScript) and (
            (name == "EVAL" and words[0] == item.text)
            or (name == "EVALSHA" and words[0] == script_digest(item.text))
        ):
            return item
    return None


def _used_by(script: OperatorScript, words: Sequence[str]) -> list[str]:
    """Return the keys of a call of a script, and patterns of further keys that it uses."""
    prefixes = words[2 + int(words[1]) :][: len(script.prefixes)]
    return _keys_of("EVAL", words) + [f"{printable(prefix)}*" for prefix in prefixes]


def _keys_of(name: str, words: Sequence[str]) -> list[str]:
    if name in ("EVAL", "EVALSHA"):
        keys: Sequence[Any] = words[2 : 2 + int(words[1])]
    else:
        keys = declared_keys(load_table(), [*name.split(), *words])
    return [printable(reply_text(key)) for key in keys]


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)
