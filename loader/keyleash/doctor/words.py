"""How findings name what is many, and what is secret."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.policy.problems import listing
from keyleash.protocol.keyspace import PUBLIC_PREFIX, Keyspace

SHOWN = 5


def named(names: Iterable[str]) -> str:
    """The first of *names*, and how many more there are."""
    return listing(names, SHOWN)


def shown_key(keyspace: Keyspace, name: str) -> str:
    """The name of a control key, of a sealed server without the prefix: that is for no log."""
    if keyspace.prefix == PUBLIC_PREFIX:
        return name
    return name.replace(keyspace.prefix, "<control>:")
