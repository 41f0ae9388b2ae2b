"""Export streams to an archive and acknowledge what was written."""

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
    kept_until_exported,
    open_streams,
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
    Leaves an event for what was exported since the last one, also by a run that was killed.

    An event becomes an entry of the control stream's own trail. So what holds nothing but such
    events is not worth another one, or each export would beget the next.
    """

    def __init__(self, client: Client, keyspace: Keyspace, archive: Archive, actor: str) -> None:
        self._client = client
        self._keyspace = keyspace
        self._archive = archive
        self._actor = actor
        self._open: list[OpenStream] = []
        self._has_news = False

    def add(self, open_stream: OpenStream) -> None:
        """Take a trail that is exported from now on."""
        self._open.append(open_stream)
        unrecorded = open_stream.folder.head.files > self._marked(open_stream).files
        self._has_news |= unrecorded and open_stream.stream.kind is not StreamKind.CONTROL

    def note(self, stream: ExportedStream, rows: Iterable[ArchiveRow]) -> None:
        """Take rows that are exported."""
        is_control = stream.kind is StreamKind.CONTROL
        self._has_news |= any(not is_control or row.field(b"event") != b"export" for row in rows)

    def record(self) -> None:
        """Say how far each trail is exported, with its chain, if there is news."""
        new = [item for item in self._open if item.folder.head.files > self._marked(item).files]
        if not self._has_news or not new:
            return
        said = {item.stream.name: self._progress(item) for item in new}
        event = {"event": "export", "actor": self._actor, "archive": self._archive.id}
        event |= {"place": self._archive.place, "trails": json.dumps(said)}
        self._client.xadd(self._keyspace.control, event)
        self._archive = self._archive.with_marks({item.stream.name: _mark(item) for item in new})
        self._has_news = False

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


# From the server's streams to an archive's files: nothing is lost, and nothing is there twice.
#
# The order of each file: its entries are delivered to the archive's consumer group; the file is
# written, flushed and named; the manifest that lists it is; and only then they are acknowledged.
# So after a crash, what is listed is only acknowledged, and all else is delivered again.

MAX_ENTRIES = 20_000
MAX_BYTES = 32 << 20
"""What a file holds at most, by its fields; and what a crash at worst leaves to be done again."""
RECORD_EVERY_S = 3600.0
POLL_S = 1.0
WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class Exported:
    """
    What was done about one trail.

    Attributes:
        trail: Its folder's name.
        file: The file that was added; None if there is only something to say.
        breaks: Where sequence numbers do not follow each other.
        lost: Entries that were delivered before a crash, and trimmed before this run.
        known: Entries that the server gave as new, and the archive had.
    """

    stream: str
    file: ArchivedFile | None = None
    breaks: tuple[SequenceBreak, ...] = ()
    lost: int = 0
    known: int = 0


@dataclass(slots=True)
class _Taken:
    """What the pages of one file were."""

    ids: list[str] = field(default_factory=list)
    breaks: list[SequenceBreak] = field(default_factory=list)
    lost: int = 0
    known: int = 0


class Archiver:
    """
    Exports the trails of one server to one archive.

    Args:
        client: An operator's client.
        keyspace: Where the control keys are.
        archive: Locked.
        identities: Whose trails; none for all, with the operators' and the control stream.
        actor: Who is to be recorded.
        take_over: Go on where another archive has the trails, or the server lost them.
        max_entries: Of a file.
        is_stopping: Asked between pages; after it said yes, the file at hand is finished.

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
        Export what there is, and record that.

        Args:
            report: Told after each page how many entries were exported so far.

        Yields:
            File by file, once it is acknowledged.

        Raises:
            ArchiveError (archive-taken): another archive has the streams, or this one has others.
            ArchiveError (archive): a folder is not as its manifest has it.
            ArchiveError (archive-write): the disk is full or the like; run it again when it is not.
        """
        self._report = report
        yield from self._round()
        self._recorder.record()

    def follow(self, every_s: float) -> Generator[Exported, None, None]:
        """
        Export what there is and what comes, until it is to stop; otherwise as `run`.

        Args:
            every_s: How often; at once where a trail has as much as a file holds, or a
                quarter of its `hard_max`.
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
        self._kept = kept_until_exported(self._client, self._keyspace)
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
                    f"the trail `{open_stream.stream.name}` was removed,"
                    " or another archive took it over",
                    help="run it again to see which",
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
                    " nothing that was to be written there is acknowledged",
                    help="make room, and run it again: it goes on where it was",
                ) from error
            open_stream.group.acknowledge(taken.ids)
        return Exported(
            open_stream.stream.name, file, tuple(taken.breaks), lost=taken.lost, known=taken.known
        )

    def _pages(self, open_stream: OpenStream, taken: _Taken) -> Iterator[list[ArchiveRow]]:
        """The pages of one file, without what the archive has or nobody has any more."""
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
    """For `verify_archive`: how far the trails of an archive were at each recorded export."""
    client = operator_client(client)

    def recorded(archive: str) -> Iterator[tuple[str, Mark]]:
        for event in read_control(client, keyspace):
            if event.event == "export" and event.details.get("archive") == archive:
                for stream, said in json.loads(event.details["trails"]).items():
                    yield stream, Mark(files=said["files"], last=said["to"], chain=said["chain"])

    return recorded
