"""Entries of several trails as one, by time."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar


class Dated(Protocol):
    """What stands in a stream."""

    @property
    def id(self) -> str: ...


Found = TypeVar("Found", bound=Dated)


def merged(trails: Iterable[Iterable[Found]], *, newest_first: bool = False) -> Iterator[Found]:
    """Merge trails that are each in order."""
    return heapq.merge(*trails, key=place, reverse=newest_first)


def newest(entries: Iterable[Found], limit: int) -> list[Found]:
    """The first *limit* of entries that come newest first, oldest first."""
    return list(islice(entries, limit))[::-1]


def place(entry: Dated) -> tuple[int, int, int]:
    """Where an entry stands in time; the commands of a batch follow each other."""
    milliseconds, _, number = entry.id.partition("-")
    return int(milliseconds), int(number), getattr(entry, "item", 0)
