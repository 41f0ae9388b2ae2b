"""The commands that a connection does not send as a plain call of its guard."""

from __future__ import annotations

from enum import Enum, auto
from functools import lru_cache

from keyleash.client.actions import Words
from keyleash.commands.facts import SCRIPT_CALLS, SUBSCRIBES, WAITS
from keyleash.store.wire import Argument, split_name

HANDSHAKE = frozenset({"HELLO", "AUTH", "SELECT", "CLIENT", "READONLY"})
"""The commands that redis-py sends by itself when it connects."""


class Role(Enum):
    """The commands that are no plain calls of a guard."""

    TRANSACTION = auto()
    """MULTI, EXEC, DISCARD, WATCH and UNWATCH."""
    SUBSCRIPTION = auto()
    SCRIPT = auto()
    """EVAL, EVALSHA and SCRIPT."""
    CLIENT = auto()
    INFO = auto()
    """INFO and DBSIZE."""
    KEYS = auto()
    BLOCKING = auto()
    CLUSTER = auto()


_ROLES = {
    **dict.fromkeys(("MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"), Role.TRANSACTION),
    **dict.fromkeys(SUBSCRIBES, Role.SUBSCRIPTION),
    **dict.fromkeys(("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"), Role.SUBSCRIPTION),
    **dict.fromkeys((*SCRIPT_CALLS, "SCRIPT"), Role.SCRIPT),
    **dict.fromkeys(WAITS, Role.BLOCKING),
    "CLIENT": Role.CLIENT,
    "CLUSTER": Role.CLUSTER,
    **dict.fromkeys(("INFO", "DBSIZE"), Role.INFO),
    "KEYS": Role.KEYS,
}


@lru_cache(maxsize=512)
def role_of(name: str | bytes) -> Role | None:
    """Return the role of a command; None if it is a plain call. Asked at every call."""
    return _ROLES.get(split_name((name,))[0])


def split_words(words: Words) -> Words:
    """Split arguments off the command name, where redis-py allows them (`BLPOP key`)."""
    return tuple(split_name(words))


def upper(word: Argument) -> str:
    """Return an argument in upper case, as servers compare options."""
    return (word.decode("latin-1") if isinstance(word, bytes) else str(word)).upper()
