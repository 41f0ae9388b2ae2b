"""Export streams to an archive without loss or duplicates.

For each file, entries are delivered to the archive's consumer group, the file is written, flushed
and named, then its manifest, and only then the entries are acknowledged. After a crash, listed
entries are acknowledged, and all others are delivered again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from redis.exceptions import ResponseError

from keyleash.audit.export.archive import Archive, ArchivedFile, Extent, locked_archive
from keyleash.audit.export.groups import OpenStream, find_streams, open_streams, trimmed_by_export
from keyleash.audit.export.rows import ArchiveRow, SequenceBreak
from keyleash.audit.export.verify import ArchiveReport, RecordedMarks, verify_archive
from keyleash.audit.operator_actions import read_control
from keyleash.audit.streams import id_order
from keyleash.errors import ArchiveError
from keyleash.operations import operation, reading
from keyleash.operations.rights import ACTIVE, CLOCK, IDENTITIES, LOG_ACTION, TAGS, each
from keyleash.operations.types import Duration, Param
from keyleash.policy.quantities import seconds_of
from keyleash.results import Progress, Result
from keyleash.store.identities import require_known
from keyleash.store.store import Store
from keyleash.store.streams import AuditStream, StreamKind, record_action
from keyleash.text import counted, json_object

MAX_ENTRIES = 20_000
MAX_BYTES = 32 << 20
"""Size of the fields in a file at most; a crash repeats at most one file."""
RECORD_EVERY_S = 3600.0
POLL_S = 1.0
WAIT_S = 0.2
_START = "0-0"
_FILE_FIELDS = ("first", "last", "count", "sha256", "chain")


@dataclass(slots=True)
class Recorder:
    """Records the progress of exports in the control stream, also that of a killed run.

    The control stream is exported too. An export of nothing but such records is not recorded, to
    avoid recursion.
    """

    store: Store
    archive: Archive
    _open: list[OpenStream] = field(default_factory=list)
    _has_new_rows: bool = False

    def add(self, item: OpenStream) -> None:
        self._open.append(item)
        self._has_new_rows |= self._is_new(item) and item.stream.kind is not StreamKind.CONTROL

    def note(self, stream: AuditStream, rows: Iterable[ArchiveRow]) -> None:
        is_control = stream.kind is StreamKind.CONTROL
        self._has_new_rows |= any(
            not is_control or row.field(b"event") != b"export" for row in rows
        )

    def record(self) -> None:
        """Record the extent and chain of each stream, if there is anything new."""
        new = {item.stream.name: item.folder.end for item in self._open if self._is_new(item)}
        if not self._has_new_rows or not new:
            return
        progress = {}
        for name, end in new.items():
            before = self._recorded(name)
            progress[name] = {
                "after": before.last or _START,
                "to": end.last,
                "count": end.count - before.count,
                "files": end.files,
                "chain": end.chain,
            }
        record_action(
            self.store,
            "export",
            archive=self.archive.id,
            place=self.archive.place,
            streams=json.dumps(progress),
        )
        self.archive.marks.update(new)
        self.archive.save()
        self._has_new_rows = False

    def _is_new(self, item: OpenStream) -> bool:
        return item.folder.end.files > self._recorded(item.stream.name).files

    def _recorded(self, stream: str) -> Extent:
        return self.archive.marks.get(stream, Extent())


@dataclass(slots=True)
class Exported(Result):
    """The result of one export step.

    Attributes:
        stream: The folder's name.
        file: The added file; None if there are only warnings.
        breaks: Breaks in the sequence numbers.
        lost: Number of entries delivered before a crash and trimmed before this run.
        known: Number of new entries of the server that the archive already has.
    """

    stream: str
    file: ArchivedFile | None = None
    breaks: list[SequenceBreak] = field(default_factory=list)
    lost: int = 0
    known: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return its breaks and missing entries in words, each beginning with its severity."""
        found = [
            f"{'warning' if item.is_loss else 'note'}: `{self.stream}`: {item}"
            for item in self.breaks
        ]
        if self.lost:
            found.append(
                f"warning: `{self.stream}`: {counted(self.lost, 'entry')}"
                " that an earlier run began to export were trimmed before this run"
            )
        if self.known:
            found.append(
                f"warning: `{self.stream}`: {counted(self.known, 'entry')}"
                " of the server are not newer than the archive, and count as exported"
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        file = dict.fromkeys(("file", *_FILE_FIELDS)) | {"count": 0}
        if self.file is not None:
            file = json_object(self.file, "file=name", *_FILE_FIELDS)
        return {"stream": self.stream, **file, **json_object(self, "breaks", "lost", "known")}


@dataclass(frozen=True, slots=True)
class ExportResult(Result):
    """The result of an export.

    Attributes:
        archive: The archive's id.
        exported: The added files, and warnings.
    """

    archive: str
    exported: tuple[Exported, ...]


@dataclass
class Archiver:
    """Exports the streams of one server to one locked archive.

    `export_streams` documents the arguments; *max_entries* are those in a file at most.
    """

    store: Store
    archive: Archive
    _: KW_ONLY
    identities: Iterable[str] = ()
    take_over: bool = False
    max_entries: int = MAX_ENTRIES
    is_stopping: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.identities = tuple(self.identities)
        self._report: Callable[[int], None] = lambda _count: None
        self._exported = 0
        self._recorder = Recorder(self.store, self.archive)
        self._open: dict[str, OpenStream] = {}
        self._hard_max: dict[str, int] = {}

    def run(
        self, report: Callable[[int], None] = lambda _count: None
    ) -> Generator[Exported, None, None]:
        """Export all entries, record that, and yield each file once it is acknowledged.

        *report* is called after each page with the number of exported entries.
        """
        self._report = report
        yield from self._round()
        self._recorder.record()

    def follow(self, every_s: float) -> Generator[Exported, None, None]:
        """Export all entries and new ones until `is_stopping`; otherwise like `run`.

        The interval is shorter if a stream has entries for a whole file, or a quarter of its
        `hard_max`.
        """
        due_s = recorded_s = time.monotonic()
        while not self.is_stopping():
            now_s = time.monotonic()
            if now_s >= due_s:
                yield from self._round()
                due_s = now_s + every_s
            else:
                for item in [item for item in self._open.values() if self._is_full(item)]:
                    yield from self._export(item)
            if now_s - recorded_s >= RECORD_EVERY_S:
                self._recorder.record()
                recorded_s = now_s
            self._wait()
        self._recorder.record()

    def _round(self) -> Iterator[Exported]:
        self._hard_max = trimmed_by_export(self.store)
        streams = find_streams(self.store, self.identities)
        new = [stream for stream in streams if stream.name not in self._open]
        for item in open_streams(self.store, self.archive, new, take_over=self.take_over):
            self._open[item.stream.name] = item
            self._recorder.add(item)
        for item in list(self._open.values()):
            yield from self._export(item)

    def _export(self, item: OpenStream) -> Iterator[Exported]:
        item.caught_up = False
        while not item.caught_up and not self.is_stopping():
            try:
                exported = self._next_file(item)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                raise ArchiveError(
                    "archive-taken",
                    f"the audit stream `{item.stream.name}` was removed,"
                    " or another archive took it over",
                    help="run the command again to find out",
                ) from None
            if exported.file or exported.breaks or exported.lost or exported.known:
                yield exported
        if self._hard_max_of(item) is not None:
            item.group.trim(item.folder.end.last or _START)

    def _next_file(self, item: OpenStream) -> Exported:
        exported = Exported(item.stream.name)
        ids: list[str] = []
        pages = self._pages(item, exported, ids)
        first = next(pages, None)
        if first is not None:
            try:
                exported.file = item.folder.write(chain((first,), pages))
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise ArchiveError(
                    "archive-write",
                    f"cannot write in `{item.folder.path}`: {reason};"
                    " its entries are not acknowledged",
                    help="free some space and run the command again; it continues there",
                ) from error
            item.group.acknowledge(ids)
        return exported

    def _pages(
        self, item: OpenStream, exported: Exported, ids: list[str]
    ) -> Iterator[list[ArchiveRow]]:
        """Yield the pages of one file, without archived and trimmed entries."""
        room, room_bytes = self.max_entries, MAX_BYTES
        last = id_order(item.folder.end.last or _START)
        while room > 0 and room_bytes > 0 and not item.caught_up and not self.is_stopping():
            page = item.pager.next_page(room)
            item.caught_up = page.is_last
            rows = []
            for row in page.rows:
                if id_order(row.id) <= last:
                    exported.known += not page.is_again
                elif not row.fields:
                    exported.lost += 1
                else:
                    rows.append(row)
            if not rows:
                item.group.acknowledge([row.id for row in page.rows])
                continue
            ids += [row.id for row in page.rows]
            for row in rows:
                found = item.sequence.follow(row.seq, row.id)
                exported.breaks += [found] if found else []
                room_bytes -= row.size
            room -= len(rows)
            self._recorder.note(item.stream, rows)
            self._exported += len(rows)
            self._report(self._exported)
            yield rows

    def _hard_max_of(self, item: OpenStream) -> int | None:
        is_audit = item.stream.kind is StreamKind.AUDIT
        return self._hard_max.get(item.stream.identity) if is_audit else None

    def _is_full(self, item: OpenStream) -> bool:
        hard_max = self._hard_max_of(item)
        enough = self.max_entries
        if hard_max is not None:
            enough = min(enough, max(1, hard_max // 4))
        lag = item.group.lag()
        return lag is None or lag >= enough

    def _wait(self) -> None:
        until_s = time.monotonic() + POLL_S
        while time.monotonic() < until_s and not self.is_stopping():
            time.sleep(WAIT_S)


Directory = Annotated[
    str | Path, Param("directory", help="The archive; created if missing.", flag="--to")
]
Every = Annotated[
    Duration,
    Param(help="Interval of --follow; shorter while the entries of a whole file are waiting."),
]
TakeOver = Annotated[
    bool,
    Param(help="Continue although another archive has these streams, or the server lost them."),
]
EXPORT = (
    ACTIVE, CLOCK, IDENTITIES, LOG_ACTION,
    each("exists xinfo|groups xinfo|consumers xreadgroup", "%R~audit", "%R~denied", "%R~control"),
    each("xgroup|create xgroup|createconsumer xgroup|destroy xack",
          "%W~audit", "%W~denied", "%W~control"),
    each("xtrim", "%W~audit"), TAGS,
)  # fmt: skip


@operation("audit export", rights=EXPORT)
def export_streams(
    store: Store,
    directory: Directory,
    *identities: str,
    take_over: TakeOver = False,
    progress: Progress | None = None,
    on_export: Callable[[Exported], None] | None = None,
    is_stopping: Callable[[], bool] | None = None,
) -> ExportResult:
    """Write the new entries of audit streams to an archive, and acknowledge them.

    Args:
        directory: An empty or new directory, or an archive.
        identities: Names; all streams, with that of operator actions, if there are none.
        take_over: Continue although another archive has these streams.
        progress: Called with the number of entries so far, and None.
        on_export: Called with each file once it is acknowledged, also if a later one fails.
        is_stopping: Called between pages; once it returns True, the current file is finished.

    Raises:
        ArchiveError: the directory cannot be used as an archive, or another archive has the
            streams.
        OperationError (unknown-identity): there never was such an identity.
    """
    report = progress or (lambda _done, _total: None)
    with _archiver(store, directory, identities, take_over, is_stopping) as archiver:
        done = []
        for item in archiver.run(lambda count: report(count, None)):
            done.append(item)
            if on_export is not None:
                on_export(item)
        return ExportResult(archiver.archive.id, tuple(done))


@reading("audit export", rights=EXPORT)
def follow_export(
    store: Store,
    directory: Directory,
    *identities: str,
    every: Every = "1m",
    take_over: TakeOver = False,
    is_stopping: Callable[[], bool] | None = None,
) -> Iterator[Exported]:
    """Keep exporting new entries until *is_stopping*, and yield each file; see `export`.

    Args:
        every: The interval, as text or `timedelta`; shorter while the entries of a whole file
            are waiting.
    """
    every_s = seconds_of("every", every) or 1
    with ExitStack() as stack:
        archiver = stack.enter_context(
            _archiver(store, directory, identities, take_over, is_stopping)
        )
        opened = stack.pop_all()

    def run() -> Iterator[Exported]:
        with opened:
            yield from archiver.follow(every_s)

    return run()


@contextmanager
def _archiver(
    store: Store,
    directory: str | Path,
    identities: Sequence[str],
    take_over: bool,
    is_stopping: Callable[[], bool] | None,
) -> Iterator[Archiver]:
    for name in identities:
        require_known(store, name)
    with locked_archive(Path(directory)) as archive:
        yield Archiver(
            store,
            archive,
            identities=identities,
            take_over=take_over,
            is_stopping=is_stopping or (lambda: False),
        )


def _recorded_extents(streams: str) -> dict[str, Extent]:
    return {
        str(name): Extent(files=int(to["files"]), last=str(to["to"]), chain=str(to["chain"]))
        for name, to in json.loads(streams).items()
    }


def recorded_by_server(store: Store) -> RecordedMarks:
    """Return for `verify_archive` the extent of each stream at each recorded export.

    An event whose extents cannot be read yields its id and None.
    """

    def recorded(archive: str) -> Iterator[tuple[str, Extent | None]]:
        for event in read_control(store):
            if event.event == "export" and event.details.get("archive") == archive:
                try:
                    extents = _recorded_extents(event.details["streams"])
                except (ValueError, KeyError, TypeError, AttributeError):
                    yield event.id, None
                else:
                    yield from extents.items()

    return recorded


@operation("audit verify --recorded", rights=(each("xrange", "%R~control"),))
def verify(store: Store, directory: str | Path, *, recorded: bool = True) -> ArchiveReport:
    """Check the files of an archive, and with *recorded* the chains in the control stream."""
    return verify_archive(Path(directory), recorded_by_server(store) if recorded else None)
