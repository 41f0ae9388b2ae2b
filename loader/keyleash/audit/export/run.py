"""Export streams to an archive without loss or duplicates.

For each file, entries are delivered to the archive's consumer group, the file is written, flushed
and named, then its manifest, and only then the entries are acknowledged. After a crash, listed
entries are acknowledged, and all others are delivered again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from redis.exceptions import ResponseError

from keyleash.audit.export.archive import Archive, ArchivedFile, Mark
from keyleash.audit.export.groups import (
    OpenStream,
    Page,
    is_gone,
    open_streams,
    trimmed_by_export,
)
from keyleash.audit.export.rows import (
    ArchiveRow,
    ExportedStream,
    FileFormat,
    SequenceBreak,
    StreamKind,
    find_streams,
    id_order,
    require_format,
)
from keyleash.audit.export.verify import RecordedMarks
from keyleash.audit.operator_actions import read_control
from keyleash.errors import ArchiveError
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import operator_client
from keyleash.store.token import reject_tokens


class Recorder:
    """
    Records the progress of exports in the control stream, also that of a killed run.

    The control stream is exported too. An export of nothing but such records is not recorded, to
    avoid recursion.
    """

    def __init__(self, client: Client, keyspace: Keyspace, archive: Archive, actor: str) -> None:
        self._client = client
        self._keyspace = keyspace
        self._archive = archive
        self._actor = actor
        self._open: list[OpenStream] = []
        self._has_new_rows = False

    def add(self, open_stream: OpenStream) -> None:
        """Add an open stream."""
        self._open.append(open_stream)
        unrecorded = open_stream.folder.head.files > self._marked(open_stream).files
        self._has_new_rows |= unrecorded and open_stream.stream.kind is not StreamKind.CONTROL

    def note(self, stream: ExportedStream, rows: Iterable[ArchiveRow]) -> None:
        """Note exported rows."""
        is_control = stream.kind is StreamKind.CONTROL
        self._has_new_rows |= any(
            not is_control or row.field(b"event") != b"export" for row in rows
        )

    def record(self) -> None:
        """Record the extent and chain of each stream, if there is anything new."""
        new = [item for item in self._open if item.folder.head.files > self._marked(item).files]
        if not self._has_new_rows or not new:
            return
        progress = {item.stream.name: self._progress(item) for item in new}
        event = {"event": "export", "actor": self._actor, "archive": self._archive.id}
        event |= {"place": self._archive.place, "trails": json.dumps(progress)}
        self._client.xadd(self._keyspace.control, event)
        self._archive = self._archive.with_marks({item.stream.name: _mark(item) for item in new})
        self._has_new_rows = False

    def _progress(self, open_stream: OpenStream) -> dict[str, str | int]:
        before, mark = self._marked(open_stream), _mark(open_stream)
        return {
            "after": before.last or "0-0",
            "to": mark.last,
            "count": mark.count - before.count,
            "files": mark.files,
            "chain": mark.chain,
        }

    def _marked(self, open_stream: OpenStream) -> Mark:
        return self._archive.marks.get(open_stream.stream.name, Mark())


def _mark(open_stream: OpenStream) -> Mark:
    head = open_stream.folder.head
    return Mark(head.files, head.count, head.last, head.chain)


MAX_ENTRIES = 20_000
MAX_BYTES = 32 << 20
"""Size of the fields in a file at most; a crash repeats at most one file."""
RECORD_EVERY_S = 3600.0
POLL_S = 1.0
WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class Exported:
    """
    The result of one export step.

    Attributes:
        stream: The folder's name.
        file: The added file; None if there are only warnings.
        breaks: Breaks in the sequence numbers.
        lost: Number of entries delivered before a crash and trimmed before this run.
        known: Number of new entries of the server that the archive already has.
    """

    stream: str
    file: ArchivedFile | None = None
    breaks: tuple[SequenceBreak, ...] = ()
    lost: int = 0
    known: int = 0


@dataclass(slots=True)
class _Taken:
    """Counts of the pages of one file."""

    ids: list[str] = field(default_factory=list)
    breaks: list[SequenceBreak] = field(default_factory=list)
    lost: int = 0
    known: int = 0


class Archiver:
    """
    Exports the streams of one server to one archive.

    Args:
        client: An operator's client.
        keyspace: Where the control keys are.
        archive: Locked.
        identities: The identities; none for all, with the operators' and the control stream.
        actor: Name recorded in the audit log.
        take_over: Continue although another archive has the streams, or the server lost them.
        max_entries: Entries in a file at most.
        is_stopping: Called between pages; once it returns True, the current file is finished.

    Raises:
        OperationError (missing-extra): *file_format* needs a library that is not installed.
    """

    def __init__(
        self,
        client: Client,
        keyspace: Keyspace,
        archive: Archive,
        *,
        file_format: FileFormat = FileFormat.JSONL,
        identities: Iterable[str] = (),
        actor: str = "unknown",
        take_over: bool = False,
        max_entries: int = MAX_ENTRIES,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        client = operator_client(client)
        reject_tokens(actor=actor)
        require_format(file_format)
        self._client = client
        self._keyspace = keyspace
        self._archive = archive
        self._format = file_format
        self._identities = tuple(identities)
        self._take_over = take_over
        self._max_entries = max_entries
        self._is_stopping = is_stopping
        self._report: Callable[[int], None] = lambda _count: None
        self._exported = 0
        self._recorder = Recorder(client, keyspace, archive, actor)
        self._open: dict[str, OpenStream] = {}
        self._kept: dict[str, int] = {}

    def run(
        self, report: Callable[[int], None] = lambda _count: None
    ) -> Generator[Exported, None, None]:
        """
        Export all entries, and record that.

        Args:
            report: Called after each page with the number of exported entries.

        Yields:
            Each file, once it is acknowledged.

        Raises:
            ArchiveError (archive-taken): another archive has the streams, or this one has others.
            ArchiveError (archive): a folder contradicts its manifest.
            ArchiveError (archive-write): the disk is full or the like; run it again when it is not.
        """
        self._report = report
        yield from self._round()
        self._recorder.record()

    def follow(self, every_s: float) -> Generator[Exported, None, None]:
        """
        Export all entries and new ones until `is_stopping`; otherwise like `run`.

        Args:
            every_s: Interval; shorter if a stream has entries for a whole file, or a quarter of
                its `hard_max`.
        """
        due_s = recorded_s = time.monotonic()
        while not self._is_stopping():
            now_s = time.monotonic()
            if now_s >= due_s:
                yield from self._round()
                due_s = now_s + every_s
            else:
                for entry in [item for item in self._open.values() if self._is_full(item)]:
                    yield from self._export(entry)
            if now_s - recorded_s >= RECORD_EVERY_S:
                self._recorder.record()
                recorded_s = now_s
            self._wait()
        self._recorder.record()

    def _round(self) -> Iterator[Exported]:
        self._kept = trimmed_by_export(self._client, self._keyspace)
        streams = find_streams(self._client, self._keyspace, self._identities)
        new = [stream for stream in streams if stream.name not in self._open]
        for item in open_streams(self._client, self._archive, new, take_over=self._take_over):
            self._open[item.stream.name] = item
            self._recorder.add(item)
        for item in list(self._open.values()):
            yield from self._export(item)

    def _export(self, open_stream: OpenStream) -> Iterator[Exported]:
        open_stream.caught_up = False
        while not open_stream.caught_up and not self._is_stopping():
            try:
                done = self._next_file(open_stream)
            except ResponseError as error:
                if not is_gone(error):
                    raise
                raise ArchiveError(
                    "archive-taken",
                    f"the audit stream `{open_stream.stream.name}` was removed,"
                    " or another archive took it over",
                    help="run the command again to find out",
                ) from None
            if done.file or done.breaks or done.lost or done.known:
                yield done
        if (
            open_stream.stream.kind is StreamKind.AUDIT
            and open_stream.stream.identity in self._kept
        ):
            open_stream.group.trim(open_stream.folder.head.last or "0-0")

    def _next_file(self, open_stream: OpenStream) -> Exported:
        taken = _Taken()
        pages = self._pages(open_stream, taken)
        file = None
        first = next(pages, None)
        if first is not None:
            try:
                file = open_stream.folder.write(chain((first,), pages), self._format)
            except OSError as error:
                said = (error.strerror or str(error)).lower()
                raise ArchiveError(
                    "archive-write",
                    f"cannot write in `{open_stream.folder.path}`: {said};"
                    " its entries are not acknowledged",
                    help="free some space and run the command again; it continues there",
                ) from error
            open_stream.group.acknowledge(taken.ids)
        return Exported(
            open_stream.stream.name, file, tuple(taken.breaks), lost=taken.lost, known=taken.known
        )

    def _pages(self, open_stream: OpenStream, taken: _Taken) -> Iterator[list[ArchiveRow]]:
        """Yield the pages of one file, without archived and trimmed entries."""
        room, room_bytes = self._max_entries, MAX_BYTES
        last = id_order(open_stream.folder.head.last or "0-0")
        while room > 0 and room_bytes > 0 and not open_stream.caught_up and not self._is_stopping():
            page = open_stream.group.next_page(room)
            open_stream.caught_up = page.is_last
            rows = _fresh(page, last, taken)
            if not rows:
                open_stream.group.acknowledge([row.id for row in page.rows])
                continue
            taken.ids += [row.id for row in page.rows]
            for row in rows:
                found = open_stream.sequence.follow(row.seq, row.id)
                taken.breaks += [found] if found else []
                room_bytes -= row.size
            room -= len(rows)
            self._recorder.note(open_stream.stream, rows)
            self._exported += len(rows)
            self._report(self._exported)
            yield rows

    def _is_full(self, open_stream: OpenStream) -> bool:
        enough = self._max_entries
        if (
            open_stream.stream.kind is StreamKind.AUDIT
            and open_stream.stream.identity in self._kept
        ):
            enough = min(enough, max(1, self._kept[open_stream.stream.identity] // 4))
        lag = open_stream.group.lag()
        return lag is None or lag >= enough

    def _wait(self) -> None:
        until_s = time.monotonic() + POLL_S
        while time.monotonic() < until_s and not self._is_stopping():
            time.sleep(WAIT_S)


def _fresh(page: Page, last: tuple[int, int], taken: _Taken) -> list[ArchiveRow]:
    rows = []
    for row in page.rows:
        if id_order(row.id) <= last:
            taken.known += not page.is_again
        elif not row.fields:
            taken.lost += 1
        else:
            rows.append(row)
    return rows


def recorded_by_server(client: Client, keyspace: Keyspace) -> RecordedMarks:
    """Return for `verify_archive` the extent of each stream at each recorded export."""
    client = operator_client(client)

    def recorded(archive: str) -> Iterator[tuple[str, Mark]]:
        for event in read_control(client, keyspace):
            if event.event == "export" and event.details.get("archive") == archive:
                for stream, said in json.loads(event.details["trails"]).items():
                    yield stream, Mark(files=said["files"], last=said["to"], chain=said["chain"])

    return recorded
