"""One entry of a stream, as it is archived."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from keyleash.audit.entry import audit_events, number_of
from keyleash.audit.export.trail import Trail, TrailKind


@dataclass(frozen=True, slots=True)
class Row:
    """
    An entry with all its fields, in their order; names may repeat.

    Attributes:
        id: `<milliseconds>-<number>`.
    """

    id: str
    fields: tuple[tuple[bytes, bytes], ...]

    @property
    def seq(self) -> int:
        """Its number in its trail; 0 if it has none."""
        return number_of(self.field(b"seq"))

    @property
    def time(self) -> datetime | None:
        """Server time, UTC; None if the id is past all calendars: it was given, not made."""
        seconds, ms = divmod(id_order(self.id)[0], 1000)
        try:
            return datetime.fromtimestamp(seconds, UTC).replace(microsecond=ms * 1000)
        except (ValueError, OverflowError, OSError):
            return None

    @property
    def size(self) -> int:
        """Bytes of its fields."""
        return sum(len(name) + len(value) for name, value in self.fields)

    def field(self, name: bytes) -> bytes:
        """The first field of that name; empty if there is none."""
        return next((value for one, value in self.fields if one == name), b"")

    def commands(self, trail: Trail) -> list[tuple[str, tuple[bytes, ...]]]:
        """The commands that the entry of an audit trail is about, each with its keys."""
        if trail.kind is not TrailKind.AUDIT or self.field(b"of"):
            return []
        try:
            events = audit_events(trail.identity, self.id.encode(), self.fields)
        except ValueError:
            # No guard wrote it. Its fields are archived all the same.
            return []
        return [(event.op, event.keys) for event in events]


def id_order(entry_id: str) -> tuple[int, int]:
    """Ids are no text: `9-0` comes before `10-0`."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)
