"""Numbers that are missing in trails: entries that are gone, though not by age."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from keyleash.audit.event import Entry

Found = TypeVar("Found", bound=Entry)


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries between two that are there.

    Attributes:
        kind: Of what trail of the identity: `event` or `denial`.
        first: The first number that is missing.
        last: The last.
        after: The id of the entry before them.
        before: The id of the entry behind them.
        time_ms: Server time of the latter, Unix milliseconds.
    """

    identity: str
    kind: str
    first: int
    last: int
    after: str
    before: str
    time_ms: int

    @property
    def missing(self) -> int:
        """How many."""
        return self.last - self.first + 1


def with_gaps(entries: Iterable[Found], *, newest_first: bool = False) -> Iterator[Found | Gap]:
    """Tell the gaps of each trail where they are.

    Args:
        entries: All of some time, of any trails: where some are filtered out, numbers are
            missing that are no gap.
        newest_first: The order of *entries*.
    """
    met: dict[tuple[str, str], Found] = {}
    for entry in entries:
        before = met.get((entry.kind, entry.identity))
        met[entry.kind, entry.identity] = entry
        if before is not None:
            gap = _between(entry, before) if newest_first else _between(before, entry)
            if gap is not None:
                yield gap
        yield entry


def _between(older: Entry, newer: Entry) -> Gap | None:
    if not older.seq or not newer.seq:
        return None
    # Where the identity's state was lost, numbers begin anew.
    first = older.seq + 1 if newer.seq >= older.seq else 1
    if first >= newer.seq:
        return None
    return Gap(
        identity=newer.identity,
        kind=newer.kind,
        first=first,
        last=newer.seq - 1,
        after=older.id,
        before=newer.id,
        time_ms=newer.time_ms,
    )
