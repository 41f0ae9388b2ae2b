"""The consumer group of each exported stream, by which the server tracks the export.

Each archive has its own groups, so that a stale archiver cannot take entries from another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from keyleash.audit.export.archive import Archive, StreamFolder
from keyleash.audit.export.rows import ArchiveRow, SequenceCheck
from keyleash.errors import ArchiveError
from keyleash.policy.parse import active_policy
from keyleash.store.groups import ConsumerGroup
from keyleash.store.identities import known_identities
from keyleash.store.keyspace import OPERATORS
from keyleash.store.records import read_active
from keyleash.store.store import Store
from keyleash.store.streams import AuditStream, audit_streams, control_stream, pairs_of, streams_of

PAGE = 500
"""Entries per page at most: the server serves no other client meanwhile."""
FIRST_PAGE = 20
PAGE_BYTES = 2 << 20
"""Target size of a page, estimated from the previous one."""


@dataclass(frozen=True, slots=True)
class Page:
    """Delivered entries, in order; a row without fields was trimmed after its first delivery.

    Attributes:
        is_again: Whether they were delivered before without acknowledgement.
        is_last: Whether the stream had no more entries.
    """

    rows: list[ArchiveRow]
    is_again: bool
    is_last: bool


class Pager:
    """The pages of one stream's consumer group, the first ones small."""

    def __init__(self, group: ConsumerGroup) -> None:
        self._group = group
        # The position in the pending entries; None once all were read.
        self._pending_after: str | None = "0"
        self._page = FIRST_PAGE

    def next_page(self, room: int) -> Page:
        """Read up to *room* entries: first those delivered before a crash, then new ones."""
        count = max(1, min(room, self._page))
        rows: list[ArchiveRow] = []
        is_again = self._pending_after is not None
        if self._pending_after is not None:
            rows = self._read(self._pending_after, count)
            self._pending_after = rows[-1].id if rows else None
        if not rows:
            is_again, rows = False, self._read(">", count)
        each = sum(row.size for row in rows) // max(1, len(rows)) + 1
        self._page = max(1, min(PAGE, self._page * 2, PAGE_BYTES // each))
        return Page(rows, is_again, is_last=not is_again and len(rows) < count)

    def _read(self, after: str, count: int) -> list[ArchiveRow]:
        return [
            ArchiveRow(entry_id.decode(), tuple(pairs_of(words)))
            for entry_id, words in self._group.read(after, count)
        ]


class OpenStream:
    """A stream with its group and folder.

    Attributes:
        sequence: Continues after the last number of the archive.
        caught_up: Whether the last read reached the end of the stream.
    """

    def __init__(self, store: Store, archive: Archive, stream: AuditStream) -> None:
        self.stream = stream
        self.group = ConsumerGroup(store, stream, archive.id, archive.place)
        self.pager = Pager(self.group)
        self.folder = StreamFolder(archive, stream)
        self.sequence = SequenceCheck(self.folder.end.last_seq)
        self.caught_up = False


def find_streams(store: Store, identities: Iterable[str]) -> list[AuditStream]:
    """Return the streams to export; they need not exist yet.

    Without *identities*, these are the control stream, the operators' stream, and the streams of
    every identity that was ever active.
    """
    names = sorted(identities)
    every = [] if names else [control_stream(store), *audit_streams(store, [OPERATORS])]
    return every + streams_of(store, names or known_identities(store))


def open_streams(
    store: Store, archive: Archive, streams: Iterable[AuditStream], *, take_over: bool
) -> Iterator[OpenStream]:
    """Open the existing ones of *streams*, which must not be open yet, for a locked archive.

    *take_over* continues although another archive has them, or the server lost them.
    """
    ready = [OpenStream(store, archive, stream) for stream in streams]
    # Check all before changing the first.
    for item in ready:
        if not take_over:
            _require_ours(item)
    for item in ready:
        if item.group.exists() or item.group.create():
            for name, place in item.group.others().items():
                # Without `take_over`, two archivers started at once. Nothing was delivered yet.
                item.group.destroy(name if take_over else item.group.name)
                if not take_over:
                    raise _taken(item.stream, place)
            yield item


def _require_ours(item: OpenStream) -> None:
    """Raise an error if another archive has the stream, or the archive another stream."""
    for place in item.group.others().values():
        raise _taken(item.stream, place)
    if item.folder.end.files and item.group.stream_exists() and not item.group.exists():
        raise ArchiveError(
            "archive-taken",
            f"the audit stream `{item.stream.name}` is not the source of `{item.folder.path}`",
            help="name another directory for another server; if the server was restored or lost"
            " its data, continue with `take_over=True`",
        )


def _taken(stream: AuditStream, place: str) -> ArchiveError:
    return ArchiveError(
        "archive-taken",
        f"the audit stream `{stream.name}` is exported to another archive, begun at `{place}`",
        help="export to that archive; or, with `take_over=True`, begin one here with all entries"
        " that the server still has, and stop exporting to the other",
    )


def trimmed_by_export(store: Store) -> dict[str, int]:
    """Return by identity its `hard_max`, if it has `retain: {until: exported}`.

    Their guards do not trim, so the archiver does.
    """
    active = read_active(store)
    return {
        identity.name: identity.audit.hard_max
        for identity in (active_policy(active.document).identities if active else ())
        if identity.audit.hard_max is not None
    }
