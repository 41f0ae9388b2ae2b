"""Consumer groups that mark how far a stream is exported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from redis.exceptions import ResponseError

from keyleash.audit.export.archive import Archive, StreamFolder
from keyleash.audit.export.rows import ArchiveRow, ExportedStream, SequenceCheck
from keyleash.errors import ArchiveError
from keyleash.policy.parse import parse_policy
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client, read_active
from keyleash.store.wire import reading_reply

# The consumer group by which the server knows what an archive has of a stream.
#
# Each archive has a group of its own, so that an archiver that was left behind cannot take
# entries from another one.

GROUPS = "keyleash-export:"
"""What the names of all archives' groups begin with."""
PAGE = 500
"""Entries per call at most: the server answers nobody else meanwhile."""
FIRST_PAGE = 20
PAGE_BYTES = 2 << 20
"""What a page should not exceed, going by the one before it: images make entries large."""


@dataclass(frozen=True, slots=True)
class Page:
    """
    Entries as they were delivered.

    Attributes:
        rows: In order. One without fields was trimmed after it was first delivered.
        is_again: Whether they were delivered before, and not acknowledged.
        is_last: Whether there were no more at that moment.
    """

    rows: list[ArchiveRow]
    is_again: bool
    is_last: bool


class ConsumerGroup:
    """
    One stream's entries, as they are delivered to an archive and acknowledged by it.

    Args:
        client: An operator's client, `decode_responses` off.
        stream: The stream's key.
        archive: The archive's id.
        place: Where it is; the name of the group's only consumer.
    """

    def __init__(self, client: Client, stream: str, archive: str, place: str) -> None:
        self._client = client
        self.stream = stream
        self.name = f"{GROUPS}{archive}"
        self._place = place
        # Where the pending entries go on; None once all were read.
        self._pending_after: str | None = "0"
        self._page = FIRST_PAGE

    def others(self) -> dict[str, str]:
        """The groups of other archives, with the places of these; none without a stream."""
        names = [name for name in self._groups() if name.startswith(GROUPS) and name != self.name]
        return {name: self._place_of(name) for name in names}

    def exists(self) -> bool:
        """Whether the stream has the group."""
        return self.name in self._groups()

    def stream_exists(self) -> bool:
        """Whether the stream is there."""
        return bool(self._client.exists(self.stream))

    def create(self) -> bool:
        """Create it at the stream's beginning; False if there is no stream yet."""
        if not self.stream_exists():
            return False
        try:
            self._client.xgroup_create(self.stream, self.name, id="0")
            self._client.xgroup_createconsumer(self.stream, self.name, self._place)
        except ResponseError as error:
            # Gone since we looked.
            if "requires the key to exist" in str(error):
                return False
            raise
        return True

    def destroy(self, name: str) -> None:
        """Remove another archive's group."""
        self._client.xgroup_destroy(self.stream, name)

    def next_page(self, room: int) -> Page:
        """Read on, *room* entries at most: first what was delivered before a crash, then news."""
        count = max(1, min(room, self._page))
        if self._pending_after is not None:
            rows = self._read(self._pending_after, count)
            self._pending_after = rows[-1].id if rows else None
            if rows:
                return self._paged(Page(rows, is_again=True, is_last=False))
        rows = self._read(">", count)
        return self._paged(Page(rows, is_again=False, is_last=len(rows) < count))

    def _paged(self, page: Page) -> Page:
        size = sum(row.size for row in page.rows) // max(1, len(page.rows)) + 1
        self._page = max(1, min(PAGE, self._page * 2, PAGE_BYTES // size))
        return page

    def acknowledge(self, ids: Sequence[str]) -> None:
        """Say that entries need not be delivered again."""
        for at in range(0, len(ids), PAGE):
            self._client.xack(self.stream, self.name, *ids[at : at + PAGE])

    def trim(self, last: str) -> int:
        """Remove entries up to *last* from the stream; returns how many."""
        milliseconds, _, number = last.partition("-")
        keep_from = f"{milliseconds}-{int(number) + 1}"
        removed = 0
        while count := self._trim(keep_from, "~", "LIMIT", PAGE):
            removed += count
        # The rest of the last node: an identity at its `hard_max` must get all the room back.
        return removed + self._trim(keep_from, "=")

    def _trim(self, keep_from: str, how: str, *limit: object) -> int:
        words = ("XTRIM", self.stream, "MINID", how, keep_from, *limit)
        return int(self._client.execute_command(*words))

    def _read(self, after: str, count: int) -> list[ArchiveRow]:
        # By a name that redis-py does not know: it would make a dict of the fields, whose
        # names repeat.
        reply: Any = self._client.execute_command(
            *(b"XREADGROUP", "GROUP", self.name, self._place),
            *("COUNT", count, "STREAMS", self.stream, after),
        )
        if not reply:
            return []
        entries = next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
        return [ArchiveRow(entry_id.decode(), _pairs(words)) for entry_id, words in entries]

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
        """How many entries were not delivered yet; None if the server does not know."""
        return self._groups().get(self.name, 0)


def is_gone(error: ResponseError) -> bool:
    """Whether the server says that the stream or the group is no more."""
    return str(error).startswith("NOGROUP")


def _pairs(words: Sequence[bytes] | None) -> tuple[tuple[bytes, bytes], ...]:
    words = words or ()
    return tuple(zip(words[::2], words[1::2], strict=True))


@dataclass(slots=True)
class OpenStream:
    """
    A trail whose stream is there, ready to be exported.

    Attributes:
        sequence: After the last number of the archive.
        caught_up: Whether the server had no more when it was asked last.
    """

    stream: ExportedStream
    group: ConsumerGroup
    folder: StreamFolder
    sequence: SequenceCheck
    caught_up: bool = False


def open_streams(
    client: Client, archive: Archive, streams: Iterable[ExportedStream], *, take_over: bool
) -> Iterator[OpenStream]:
    """
    Open those of *trails* whose streams are there.

    Args:
        client: An operator's client.
        archive: Locked.
        trails: None of which is open.
        take_over: Go on where another archive has them, or the server lost them.

    Raises:
        ArchiveError (archive-taken): another archive has one, or the archive another server's.
        ArchiveError (archive): a folder is not as its manifest has it.
    """
    ready = [_ready(client, archive, stream) for stream in streams]
    # All are looked at before the first is changed.
    for item in ready:
        if not take_over:
            _require_ours(item)
    for item in ready:
        if item.group.exists() or item.group.create():
            _require_alone(item, take_over=take_over)
            yield item


def _ready(client: Client, archive: Archive, stream: ExportedStream) -> OpenStream:
    group = ConsumerGroup(client, stream.key, archive.id, archive.place)
    folder = StreamFolder(archive, stream)
    return OpenStream(stream, group, folder, SequenceCheck(folder.head.last_seq))


def _require_ours(open_stream: OpenStream) -> None:
    """See to it that no other archive has the stream, and what the archive has is from it."""
    for place in open_stream.group.others().values():
        raise _taken(open_stream.stream, place)
    if (
        open_stream.folder.head.files
        and open_stream.group.stream_exists()
        and not open_stream.group.exists()
    ):
        raise ArchiveError(
            "archive-taken",
            f"the trail `{open_stream.stream.name}` is not the one that `{open_stream.folder.path}`"
            " was exported from",
            help="name another directory for another server; if the server was restored or lost"
            " its data, go on with `--take-over`",
        )


def _require_alone(open_stream: OpenStream, *, take_over: bool) -> None:
    for name, place in open_stream.group.others().items():
        if not take_over:
            # Both came at once. Nothing was delivered yet.
            open_stream.group.destroy(open_stream.group.name)
            raise _taken(open_stream.stream, place)
        open_stream.group.destroy(name)


def _taken(stream: ExportedStream, place: str) -> ArchiveError:
    return ArchiveError(
        "archive-taken",
        f"the trail `{stream.name}` is exported to another archive, begun at `{place}`",
        help="export to that one; or begin one here, with all that the server still has, by"
        " `--take-over`: that one is not gone on with then",
    )


def kept_until_exported(client: Client, keyspace: Keyspace) -> dict[str, int]:
    """
    The identities with `retain: {until: exported, hard_max: N}`.

    Returns:
        Identity → its `hard_max`. Their guards trim nothing, so that the archiver has to.
    """
    active = read_active(client, keyspace)
    return {} if active is None else _kept(active.document)


@lru_cache(maxsize=1)
def _kept(document: str) -> dict[str, int]:
    # It was checked when it was loaded, by a program that may know other commands.
    policy = parse_policy(document, file="the active policy", commands=None)
    return {
        identity.name: identity.audit.hard_max
        for identity in policy.identities
        if identity.audit.hard_max is not None
    }
