"""Export streams to an archive without loss or duplicates.

The entries after the server's record of a stream are read, written to the files of their days and
flushed to disk, then the cursor of the folder, and then the record. After a crash the export goes
on at the cursor. Entries between the record and the cursor, which a crash or a server that lost
writes leaves, must be those of the archive. Only entries up to the record are ever trimmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from keyleash.addons.export.archive import Archive, StreamFolder, locked_archive
from keyleash.addons.export.rows import ArchiveRow, SequenceBreak, SequenceCheck
from keyleash.addons.export.verify import ArchiveReport, verify_archive
from keyleash.audit.streams import id_order
from keyleash.errors import ArchiveError
from keyleash.operations import operation, reading
from keyleash.operations.types import Duration, Param
from keyleash.policy.parse import active_policy
from keyleash.policy.quantities import seconds_of
from keyleash.results import Progress, Result
from keyleash.store.exports import (
    BEFORE_ALL,
    ExportRecord,
    claim_export,
    export_key,
    read_exports,
    trim_exported,
    write_export,
)
from keyleash.store.identities import known_identities, require_known
from keyleash.store.keyspace import OPERATORS
from keyleash.store.records import read_active
from keyleash.store.store import Store
from keyleash.store.streams import (
    AuditStream,
    StreamKind,
    audit_streams,
    control_stream,
    oldest_entry,
    pairs_of,
    read_pages,
    stream_length,
    streams_of,
)

MAX_ENTRIES = 20_000
MAX_BYTES = 8 << 20
"""Size of the fields that are written at once, at most; a crash repeats at most one write."""
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Exported(Result):
    """Entries that were written to the file of a day.

    Attributes:
        stream: The folder's name.
        file: The file's name.
        first, last: Ids of its first and last new entry.
        count: Number of new entries.
        chain: Digest of the last line.
        breaks: Breaks in the sequence numbers.
    """

    stream: str
    file: str
    first: str
    last: str
    count: int
    chain: str
    breaks: list[SequenceBreak] = field(default_factory=list)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return its breaks in words, each beginning with its severity."""
        return tuple(
            f"{'warning' if item.is_loss else 'note'}: `{self.stream}`: {item}"
            for item in self.breaks
        )


@dataclass(frozen=True, slots=True)
class ExportResult(Result):
    """The result of an export.

    Attributes:
        archive: The archive's id.
        exported: What was written, and warnings.
    """

    archive: str
    exported: tuple[Exported, ...]


@dataclass
class Archiver:
    """Exports the streams of one server to one locked archive.

    `export_streams` documents the arguments; *max_entries* are those written at once, at most.
    """

    store: Store
    archive: Archive
    identities: Sequence[str] = ()
    progress: Progress = lambda _done, _total: None
    is_stopping: Callable[[], bool] = lambda: False
    max_entries: int = MAX_ENTRIES
    _done: int = 0
    _streams: Sequence[AuditStream] = ()
    _hard_max: Mapping[str, int] = field(default_factory=dict)

    def run(self) -> Iterator[Exported]:
        """Export all entries, and yield each write once the server has its record."""
        self._hard_max = _hard_max_by_identity(self.store)
        self._streams = _find_streams(self.store, self.identities)
        yield from self._export_all(self._streams)

    def follow(self, every_s: float) -> Iterator[Exported]:
        """Export all entries and new ones until `is_stopping`.

        The interval is shorter for a stream with a quarter of its `hard_max`.
        """
        due_s = time.monotonic()
        while not self.is_stopping():
            now_s = time.monotonic()
            if now_s >= due_s:
                yield from self.run()
                due_s = now_s + every_s
            else:
                yield from self._export_all([item for item in self._streams if self._is_full(item)])
            time.sleep(POLL_S)

    def _export_all(self, streams: Sequence[AuditStream]) -> Iterator[Exported]:
        records = zip(streams, read_exports(self.store, streams), strict=True)
        # Check all before changing the first.
        ready = [found for item, record in records if (found := self._open(item, record))]
        for folder, record in ready:
            yield from self._export(folder, record)
        names = self.archive.streams | {item.stream.name for item, _ in ready if item.cursor.file}
        if names != self.archive.streams:
            self.archive.streams.update(names)
            self.archive.save()

    def _open(
        self, stream: AuditStream, record: ExportRecord | None
    ) -> tuple[StreamFolder, ExportRecord | None] | None:
        """Return a stream's folder with the server's record; None if there is nothing to export."""
        if record is None and oldest_entry(self.store, stream) is None:
            return None
        folder = StreamFolder(self.archive, stream)
        cursor = folder.cursor
        if record is None:
            if cursor.id != BEFORE_ALL:
                raise ArchiveError(
                    "archive-taken",
                    f"the audit stream `{stream.name}` is not the source of `{folder.path}`",
                    help="name another directory for another server, and for one that was restored"
                    " or lost its data",
                )
        elif record.archive != self.archive.id:
            raise self._taken(stream, record)
        elif id_order(record.id) > id_order(cursor.id) or (
            record.id == cursor.id and record.chain != cursor.chain
        ):
            raise ArchiveError(
                "archive",
                f"`{folder.path}` does not have what was exported to it, up to {record.id}",
                help="restore the folder from a backup",
            )
        return folder, record

    def _taken(self, stream: AuditStream, record: ExportRecord) -> ArchiveError:
        key = export_key(self.store, stream)
        return ArchiveError(
            "archive-taken",
            f"the audit stream `{stream.name}` is exported to another archive, begun at"
            f" `{record.place}`",
            help="export to that archive; if there is to be another one instead, remove the"
            f" server's record of it: `DEL {key}`",
        )

    def _export(self, folder: StreamFolder, record: ExportRecord | None) -> Iterator[Exported]:
        if record is None:
            record = self.archive.empty_record
            if not claim_export(self.store, folder.stream, record):
                (other,) = read_exports(self.store, [folder.stream])
                raise self._taken(folder.stream, other or record)
        before, end = record, id_order(folder.cursor.id)
        archived = folder.rows_after(record.id)
        rows: list[ArchiveRow] = []
        size = 0
        for row in self._rows(folder.stream, record.id):
            if id_order(row.id) <= end:
                record = replace(record, id=row.id, chain=_chain_of(row, archived, folder))
                continue
            is_full = len(rows) >= self.max_entries or size + row.size > MAX_BYTES
            if rows and (is_full or row.file != rows[0].file):
                yield self._write(folder, rows)
                rows, size = [], 0
            rows.append(row)
            size += row.size
        if rows:
            yield self._write(folder, rows)
            record = folder.record
        elif record != before:
            write_export(self.store, folder.stream, record)
        if self._hard_max_of(folder.stream) is not None:
            trim_exported(self.store, folder.stream, record)

    def _rows(self, stream: AuditStream, after: str) -> Iterator[ArchiveRow]:
        for page in read_pages(self.store, stream, after_id=after):
            for entry_id, words in page:
                yield ArchiveRow(entry_id.decode(), tuple(pairs_of(words)))
            self._done += len(page)
            self.progress(self._done, None)
            if self.is_stopping():
                return

    def _write(self, folder: StreamFolder, rows: Sequence[ArchiveRow]) -> Exported:
        sequence = SequenceCheck(folder.cursor.seq)
        breaks = [found for row in rows if (found := sequence.follow(row.seq, row.id))]
        folder.append(rows)
        write_export(self.store, folder.stream, folder.record)
        ends = rows[0].id, rows[-1].id, len(rows)
        return Exported(folder.stream.name, folder.cursor.file, *ends, folder.cursor.chain, breaks)

    def _hard_max_of(self, stream: AuditStream) -> int | None:
        return self._hard_max.get(stream.identity) if stream.kind is StreamKind.AUDIT else None

    def _is_full(self, stream: AuditStream) -> bool:
        hard_max = self._hard_max_of(stream)
        return hard_max is not None and stream_length(self.store, stream) >= max(1, hard_max // 4)


def _chain_of(
    row: ArchiveRow, archived: Iterator[tuple[ArchiveRow, str]], folder: StreamFolder
) -> str:
    """Return the digest of the line of a row that the archive must have; *archived* moves on."""
    with suppress(ValueError):
        for found, chain in archived:
            if found == row:
                return chain
    raise ArchiveError(
        "archive",
        f"`{folder.path}` lacks the entry {row.id}, although it has later ones",
        help="the server lost acknowledged writes or was restored, or the archive was changed:"
        " begin another archive, or restore this one from a backup",
    )


def _find_streams(store: Store, names: Sequence[str]) -> list[AuditStream]:
    """Return the streams to export; they need not exist yet.

    Without *names*, these are the control stream, the operators' stream, and the streams of
    every identity that was ever active.
    """
    every = [] if names else [control_stream(store), *audit_streams(store, [OPERATORS])]
    return every + streams_of(store, sorted(names) or known_identities(store))


def _hard_max_by_identity(store: Store) -> dict[str, int]:
    """Return by identity its `hard_max`, if it has `retain: {until: exported}`.

    Their guards do not trim, so the archiver does.
    """
    active = read_active(store)
    return {
        identity.name: identity.audit.hard_max
        for identity in (active_policy(active.document).identities if active else ())
        if identity.audit.hard_max is not None
    }


Directory = Annotated[
    str | Path, Param("directory", help="The archive; created if missing.", flag="--to")
]
Every = Annotated[
    Duration, Param(help="Interval of --follow; shorter while a quarter of a `hard_max` waits.")
]


@operation("audit export")
def export_streams(
    store: Store,
    directory: Directory,
    *identities: str,
    progress: Progress | None = None,
    on_export: Callable[[Exported], None] | None = None,
    is_stopping: Callable[[], bool] | None = None,
) -> ExportResult:
    """Write the new entries of audit streams to an archive: a file per stream and day.

    Args:
        directory: An empty or new directory, or an archive.
        identities: Names; all streams, with that of operator actions, if there are none.
        progress: Called with the number of entries so far, and None.
        on_export: Called with each write once the server has its record, also if a later one
            fails.
        is_stopping: Called between pages; once it returns True, what was read is written.

    Raises:
        ArchiveError: the directory cannot be used as an archive, or another archive has the
            streams.
        OperationError (unknown-identity): there never was such an identity.
    """
    with _archiver(store, directory, identities, is_stopping, progress) as archiver:
        done = []
        for item in archiver.run():
            done.append(item)
            if on_export is not None:
                on_export(item)
        return ExportResult(archiver.archive.id, tuple(done))


@reading("audit export")
def follow_export(
    store: Store,
    directory: Directory,
    *identities: str,
    every: Every = "1m",
    is_stopping: Callable[[], bool] | None = None,
) -> Iterator[Exported]:
    """Keep exporting new entries until *is_stopping*, and yield each write; see `export`.

    Args:
        every: The interval, as text or `timedelta`; shorter while a quarter of a `hard_max` waits.
    """
    every_s = seconds_of("every", every) or 1
    with ExitStack() as stack:
        archiver = stack.enter_context(_archiver(store, directory, identities, is_stopping))
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
    is_stopping: Callable[[], bool] | None,
    progress: Progress | None = None,
) -> Iterator[Archiver]:
    for name in identities:
        require_known(store, name)
    progress = progress or (lambda _done, _total: None)
    with locked_archive(Path(directory)) as archive:
        yield Archiver(store, archive, identities, progress, is_stopping or (lambda: False))


def recorded_by_server(store: Store) -> dict[str, ExportRecord]:
    """Return the server's record of each stream that was exported."""
    streams = _find_streams(store, ())
    records = zip(streams, read_exports(store, streams), strict=True)
    return {stream.name: record for stream, record in records if record}


@operation("audit verify --recorded")
def verify(store: Store, directory: str | Path, *, recorded: bool = True) -> ArchiveReport:
    """Check the files of an archive, and with *recorded* the server's records of its streams."""
    return verify_archive(Path(directory), recorded_by_server(store) if recorded else None)
