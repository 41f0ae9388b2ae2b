"""Audit streams by identity, and entries in order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from keyleash.store.identities import known_identities, require_known
from keyleash.store.keyspace import OPERATORS
from keyleash.store.store import Store


def stream_owners(store: Store) -> list[str]:
    """Return the names that may have an audit stream: all identities ever active, and operators."""
    return [*known_identities(store), OPERATORS]


class HasId(Protocol):
    """A parsed entry of a stream."""

    @property
    def id(self) -> str: ...


Found = TypeVar("Found", bound=HasId)


def merged(streams: Iterable[Iterable[Found]], *, newest_first: bool = False) -> Iterator[Found]:
    """Merge streams that are each in order.

    Entries of several streams may have the same id; backwards, their order is reversed as well.
    """
    ordered = [*streams][::-1] if newest_first else streams
    return heapq.merge(*ordered, key=sort_key, reverse=newest_first)


def id_order(entry_id: str) -> tuple[int, int]:
    """Return the sort key of an id: `9-0` comes before `10-0`."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


def sort_key(entry: HasId) -> tuple[int, int, int]:
    """Return the sort key of an entry: time, number, and place in a batch."""
    return (*id_order(entry.id), getattr(entry, "item", 0))


def stream_names(store: Store, given: Sequence[str] = (), *, operators: bool = True) -> list[str]:
    """Return the identities whose audit streams are selected: those *given*, or all known ones.

    With *operators*, all includes the audit stream of undos.
    """
    names = list(dict.fromkeys(given))
    for name in names:
        if name != OPERATORS:
            require_known(store, name)
    if names:
        return names
    known = require_known(store, None)
    return [*known, OPERATORS] if operators else known
