"""Trails in numbers: by identity, by operation, by the beginnings of keys, by reply code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from keyleash.audit.event import AuditEvent, Denial

PREFIX_SEGMENTS = 2
ANY_COMMAND = "(any command)"
"""The operation of repeated denials whose commands are not recorded."""


@dataclass(slots=True)
class Tally:
    """How often something occurs.

    Attributes:
        events: Commands that were let through and recorded.
        failed: Those of them that failed.
        refused: Refusals, each repeat counted.
    """

    events: int = 0
    failed: int = 0
    refused: int = 0

    @property
    def total(self) -> int:
        """Whatever became of it."""
        return self.events + self.refused


@dataclass(slots=True)
class Stats:
    """Numbers of some time.

    Attributes:
        first_ms: Server time of the first entry, Unix milliseconds; None if there is none.
        last_ms: Of the last.
        ops: By command. Repeats of a denial that may be of other commands are `ANY_COMMAND`.
        prefixes: By what keys begin with; a call of several keys counts once for each beginning.
    """

    first_ms: int | None = None
    last_ms: int | None = None
    identities: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    ops: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    prefixes: dict[bytes, Tally] = field(default_factory=lambda: defaultdict(Tally))
    codes: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))

    def add(self, entry: AuditEvent | Denial, segments: int = PREFIX_SEGMENTS) -> None:
        """Count an entry."""
        tallies = [self.identities[entry.identity]]
        if isinstance(entry, Denial) and entry.is_any_command:
            self.ops[entry.op].refused += 1
            if entry.folded_count:
                self.ops[ANY_COMMAND].refused += entry.folded_count
        else:
            tallies.append(self.ops[entry.op])
        tallies += [self.prefixes[one] for one in {key_prefix(key, segments) for key in entry.keys}]
        if isinstance(entry, Denial):
            tallies.append(self.codes[entry.code])
        for tally in tallies:
            _count(tally, entry)
        self.first_ms = min(self.first_ms or entry.time_ms, entry.time_ms)
        self.last_ms = max(self.last_ms or 0, entry.time_ms)


def count_entries(entries: Iterable[AuditEvent | Denial], segments: int = PREFIX_SEGMENTS) -> Stats:
    """Count entries; *segments* says how much of a key makes its prefix."""
    stats = Stats()
    for entry in entries:
        stats.add(entry, segments)
    return stats


def key_prefix(key: bytes, segments: int = PREFIX_SEGMENTS) -> bytes:
    """The first segments of a key, never its last: `a:b:` of `a:b:c:d`; empty of `a`."""
    parts = key.split(b":", segments)
    return b"".join(part + b":" for part in parts[:-1])


def _count(tally: Tally, entry: AuditEvent | Denial) -> None:
    if isinstance(entry, Denial):
        tally.refused += entry.repeats
    else:
        tally.events += 1
        tally.failed += entry.error is not None
