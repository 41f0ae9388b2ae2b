"""How findings name what is many, and what is secret."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.protocol.keyspace import PUBLIC_PREFIX, Keyspace

SHOWN = 5


def named(names: Iterable[str]) -> str:
    """The first of *names*, and how many more there are."""
    some = list(names)
    shown = ", ".join(f"`{one}`" for one in some[:SHOWN])
    return shown if len(some) <= SHOWN else f"{shown} and {len(some) - SHOWN} more"


def shown_key(keyspace: Keyspace, name: str) -> str:
    """The name of a control key, of a sealed server without the prefix: that is for no log."""
    if keyspace.prefix == PUBLIC_PREFIX:
        return name
    return name.replace(keyspace.prefix, "<control>:")
