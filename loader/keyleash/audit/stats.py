"""Count events by identity, token and operation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, Literal, TypeVar, Unpack

from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.lookup import Gap, Restart, with_gaps
from keyleash.audit.read import read_denials, read_events
from keyleash.audit.selection import ReadTimes, query_of, reachable
from keyleash.audit.streams import stream_names
from keyleash.operations import operation
from keyleash.operations.types import Param
from keyleash.policy.quantities import positive
from keyleash.results import Instant, Result
from keyleash.store.store import Store
from keyleash.text import json_bytes, json_object, without_tokens

PREFIX_SEGMENTS = 2
ANY_COMMAND = "(any command)"
"""The operation of repeated denials whose commands are not recorded."""


@dataclass(slots=True)
class Tally(Result):
    """Counts of calls.

    Attributes:
        events: Allowed commands.
        failed: Allowed commands that failed.
        denied: Denials, with repeats.
    """

    events: int = 0
    failed: int = 0
    denied: int = 0

    @property
    def total(self) -> int:
        """Return the number of all calls."""
        return self.events + self.denied

    def add(self, entry: AuditEvent | Denial) -> None:
        if isinstance(entry, Denial):
            self.denied += entry.repeats
        else:
            self.events += 1
            self.failed += entry.error is not None


@dataclass(slots=True)
class Stats(Result):
    """Tallies of a time range by identity, command, key prefix and reply code.

    Attributes:
        first_ms: Server time of the first entry, Unix milliseconds; None if there is none.
        last_ms: Server time of the last entry.
        ops: By command; repeats of a denial that may be of other commands are `ANY_COMMAND`.
        prefixes: By key prefix; a call counts once for each prefix of its keys.
        gaps: Missing entries, if `read_stats` made it.
    """

    first_ms: int | None = None
    last_ms: int | None = None
    identities: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    ops: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    prefixes: dict[bytes, Tally] = field(default_factory=lambda: defaultdict(Tally))
    codes: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    gaps: list[Gap] = field(default_factory=list)

    first = Instant[datetime | None]("first_ms")
    last = Instant[datetime | None]("last_ms")

    @property
    def tables(self) -> dict[str, list[tuple[str | bytes, Tally]]]:
        """Return the rows of each table, the largest first: `identity`, `op`, `prefix`, `code`."""
        return {
            "identity": [*ranked(self.identities)],
            "op": [*ranked(self.ops)],
            "prefix": [*ranked(self.prefixes)],
            "code": [*ranked(self.codes)],
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each row of `tables`, and each gap, as a line of `audit stats --json`."""
        for kind, tallies in self.tables.items():
            for name, tally in tallies:
                shown = json_bytes(name) if isinstance(name, bytes) else without_tokens(name)
                yield {"kind": kind, kind: shown, **tally.to_dict()}
        yield from (gap.to_dict() for gap in self.gaps)

    def to_dict(self) -> dict[str, Any]:
        """Return the times of the first and the last entry, and all `rows`."""
        return {**json_object(self, "first_ms", "last_ms"), "rows": [*self.rows()]}

    def sum(self, name: Literal["events", "failed", "denied"]) -> int:
        """Return the total of one count."""
        return sum(getattr(tally, name) for tally in self.identities.values())

    def add(self, entry: AuditEvent | Denial, segments: int = PREFIX_SEGMENTS) -> None:
        tallies = [self.identities[entry.identity]]
        if isinstance(entry, Denial) and entry.is_any_command:
            self.ops[entry.op].denied += 1
            if entry.folded_count:
                self.ops[ANY_COMMAND].denied += entry.folded_count
        else:
            tallies.append(self.ops[entry.op])
        tallies += [
            self.prefixes[item] for item in {key_prefix(key, segments) for key in entry.keys}
        ]
        if isinstance(entry, Denial):
            tallies.append(self.codes[entry.code])
        for tally in tallies:
            tally.add(entry)
        self.first_ms = min(self.first_ms or entry.time_ms, entry.time_ms)
        self.last_ms = max(self.last_ms or 0, entry.time_ms)


Segments = Annotated[
    int, Param("segments", help="Number of segments in a key prefix.", check=positive)
]


@operation("audit stats")
def read_stats(
    store: Store,
    *identities: str,
    segments: Segments = PREFIX_SEGMENTS,
    **filters: Unpack[ReadTimes],
) -> Stats:
    """Count events and denials by identity, command, key prefix and reply code; find gaps.

    Args:
        identities: Names; all known ones if none is given.
        segments: The number of segments in a key prefix.

    Other filters are those of `events`.
    """
    names, query = stream_names(store, identities), query_of(store, filters)
    store = reachable(store, filters)
    stats = Stats()
    events = read_events(store, names, query)
    for entry in chain(with_gaps(events), with_gaps(read_denials(store, names, query))):
        if isinstance(entry, Gap):
            stats.gaps.append(entry)
        elif not isinstance(entry, Restart):
            stats.add(entry, segments)
    return stats


def key_prefix(key: bytes, segments: int = PREFIX_SEGMENTS) -> bytes:
    """Return the first segments of a key, but not its last: `a:b:` for `a:b:c:d`, empty for `a`."""
    parts = key.split(b":", segments)
    return b"".join(part + b":" for part in parts[:-1])


Name = TypeVar("Name", str, bytes)


def ranked(tallies: Mapping[Name, Tally]) -> list[tuple[Name, Tally]]:
    """Return the rows of a table of tallies, the largest first."""
    return sorted(tallies.items(), key=lambda row: (-row[1].total, row[0]))
