"""The consumer group of each exported stream, by which the server tracks the export.

Each archive has its own groups, so that a stale archiver cannot take entries from another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from redis.exceptions import ResponseError

from keyleash.audit.export.archive import Archive, StreamFolder
from keyleash.audit.export.rows import ArchiveRow, SequenceCheck
from keyleash.audit.streams import AuditStream, StreamKind, control_stream, pairs_of, streams_of
from keyleash.errors import ArchiveError
from keyleash.policy.parse import parse_policy
from keyleash.store.identities import known_identities
from keyleash.store.keyspace import OPERATORS
from keyleash.store.records import read_active
from keyleash.store.server_check import Client
from keyleash.store.store import Store
from keyleash.store.wire import reading_reply

GROUPS = "keyleash-export:"
"""The prefix of the groups of all archives."""
PAGE = 500
"""Entries per call at most: the server serves no other client meanwhile."""
FIRST_PAGE = 20
PAGE_BYTES = 2 << 20
"""Target size of a page, estimated from the previous one."""


@dataclass(frozen=True, slots=True)
class Page:
    """Delivered entries.

    Attributes:
        rows: In order. A row without fields was trimmed after its first delivery.
        is_again: Whether they were delivered before without acknowledgement.
        is_last: Whether the stream had no more entries.
    """

    rows: list[ArchiveRow]
    is_again: bool
    is_last: bool


class ConsumerGroup:
    """The consumer group of one stream and archive: delivers and acknowledges entries.

    *stream* is a key, and *archive* an id. *place*, the archive's host and directory, is the name
    of the group's only consumer.
    """

    def __init__(self, client: Client, stream: str, archive: str, place: str) -> None:
        self._client = client
        self.stream = stream
        self.name = f"{GROUPS}{archive}"
        self._place = place
        # The position in the pending entries; None once all were read.
        self._pending_after: str | None = "0"
        self._page = FIRST_PAGE

    def others(self) -> dict[str, str]:
        """Return the groups of other archives with their places; none without a stream."""
        names = [name for name in self._groups() if name.startswith(GROUPS) and name != self.name]
        return {name: self._place_of(name) for name in names}

    def exists(self) -> bool:
        """Return whether the stream has the group."""
        return self.name in self._groups()

    def stream_exists(self) -> bool:
        """Return whether the stream exists."""
        return bool(self._client.exists(self.stream))

    def create(self) -> bool:
        """Create the group at the stream's beginning; return False if there is no stream yet."""
        if not self.stream_exists():
            return False
        try:
            self._client.xgroup_create(self.stream, self.name, id="0")
            self._client.xgroup_createconsumer(self.stream, self.name, self._place)
        except ResponseError as error:
            # Removed since the check.
            if "requires the key to exist" in str(error):
                return False
            raise
        return True

    def destroy(self, name: str) -> None:
        """Remove a group of the stream."""
        self._client.xgroup_destroy(self.stream, name)

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

    def acknowledge(self, ids: Sequence[str]) -> None:
        """Acknowledge entries."""
        for at in range(0, len(ids), PAGE):
            self._client.xack(self.stream, self.name, *ids[at : at + PAGE])

    def trim(self, last: str) -> int:
        """Remove entries up to *last* from the stream; return their number."""
        milliseconds, _, number = last.partition("-")
        keep_from = f"{milliseconds}-{int(number) + 1}"
        removed = 0
        while count := self._trim(keep_from, "~", "LIMIT", PAGE):
            removed += count
        # The rest of the last node: an identity at its `hard_max` needs all its room back.
        return removed + self._trim(keep_from, "=")

    def _trim(self, keep_from: str, how: str, *limit: object) -> int:
        words = ("XTRIM", self.stream, "MINID", how, keep_from, *limit)
        return int(self._client.execute_command(*words))

    def _read(self, after: str, count: int) -> list[ArchiveRow]:
        # As bytes, redis-py does not know the command, else it would make a dict of the fields.
        reply: Any = self._client.execute_command(
            *(b"XREADGROUP", "GROUP", self.name, self._place),
            *("COUNT", count, "STREAMS", self.stream, after),
        )
        if not reply:
            return []
        entries = next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
        return [
            ArchiveRow(entry_id.decode(), tuple(pairs_of(words or [])))
            for entry_id, words in entries
        ]

    def _groups(self) -> dict[str, int]:
        try:
            found = self._client.xinfo_groups(self.stream)
        except ResponseError as error:
            if "no such key" in str(error):
                return {}
            raise
        with reading_reply("XINFO"):
            return {group["name"].decode(): group["lag"] for group in found}

    def _place_of(self, name: str) -> str:
        consumers = self._client.xinfo_consumers(self.stream, name)
        with reading_reply("XINFO"):
            return ", ".join(consumer["name"].decode() for consumer in consumers) or name

    def lag(self) -> int | None:
        """Return the number of undelivered entries; None if the server does not know."""
        return self._groups().get(self.name, 0)


class OpenStream:
    """A stream with its group and folder.

    Attributes:
        sequence: Continues after the last number of the archive.
        caught_up: Whether the last read reached the end of the stream.
    """

    def __init__(self, client: Client, archive: Archive, stream: AuditStream) -> None:
        self.stream = stream
        self.group = ConsumerGroup(client, stream.key, archive.id, archive.place)
        self.folder = StreamFolder(archive, stream)
        self.sequence = SequenceCheck(self.folder.end.last_seq)
        self.caught_up = False


def find_streams(store: Store, identities: Iterable[str]) -> list[AuditStream]:
    """Return the streams to export; they need not exist yet.

    Without *identities*, these are the control stream, the operators' stream, and the streams of
    every identity that was ever active.
    """
    names = sorted(identities)
    every = [] if names else [control_stream(store.keys), streams_of(store.keys, OPERATORS)[0]]
    return every + [
        stream
        for name in names or known_identities(store)
        for stream in streams_of(store.keys, name)
    ]


def open_streams(
    client: Client, archive: Archive, streams: Iterable[AuditStream], *, take_over: bool
) -> Iterator[OpenStream]:
    """Open the existing ones of *streams*, which must not be open yet, for a locked archive.

    *take_over* continues although another archive has them, or the server lost them.

    Raises:
        ArchiveError (archive-taken): another archive has one, or the archive another server's.
        ArchiveError (archive): a folder contradicts its manifest.
    """
    ready = [OpenStream(client, archive, stream) for stream in streams]
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
            " its data, continue with `--take-over`",
        )


def _taken(stream: AuditStream, place: str) -> ArchiveError:
    return ArchiveError(
        "archive-taken",
        f"the audit stream `{stream.name}` is exported to another archive, begun at `{place}`",
        help="export to that archive; or, with `--take-over`, begin one here with all entries"
        " that the server still has, and stop exporting to the other",
    )


def trimmed_by_export(store: Store) -> dict[str, int]:
    """Return by stream the `hard_max` of identities with `retain: {until: exported}`.

    Their guards do not trim, so the archiver does.
    """
    active = read_active(store)
    limits = {} if active is None else _hard_max(active.document)
    return {f"{StreamKind.AUDIT}/{name}": hard_max for name, hard_max in limits.items()}


@lru_cache(maxsize=1)
def _hard_max(document: str) -> dict[str, int]:
    # Not checked again: a program that knows other commands may have loaded it.
    policy = parse_policy(document, file="the active policy", commands=None)
    return {
        identity.name: identity.audit.hard_max
        for identity in policy.identities
        if identity.audit.hard_max is not None
    }
