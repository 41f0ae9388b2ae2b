"""An archive directory: its lock, and for each stream a folder of one file per day.

    archive.json                          the archive's id, and the names of its streams
    archive.lock                          held by the running archiver
    audit/agent-runner/2025-11-25.jsonl   the entries of a day in UTC, one per line
    audit/agent-runner/cursor.json        where the export goes on
    denied/agent-runner/…  audit/@operators/…  control/…

The `chain` of a line is the SHA-256 in hex of the line before it in the stream, with its end; 64
zeros in the first line. So the digest of one line proves that no line up to there was changed,
removed or added, and the digest of the last line is in the cursor and on the server.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from keyleash.addons.export.rows import (
    ArchiveRow,
    bounded_lines,
    digest_of,
    file_of,
    line_of,
    read_row,
)
from keyleash.audit.streams import id_order
from keyleash.errors import ArchiveError, OperationError
from keyleash.policy.files import read_bytes
from keyleash.store.exports import BEFORE_ALL, FORMAT, NO_CHAIN, ExportRecord, require_format
from keyleash.store.streams import AuditStream

ARCHIVE = "archive.json"
LOCK = "archive.lock"
CURSOR = "cursor.json"
DRAFT = "draft.tmp"
"""The name of an incomplete `archive.json` or cursor."""
MAX_JSON_BYTES = 64 << 20  # of an `archive.json` with all streams
_DAY_FILE = re.compile(r"\d{4}-\d\d-\d\d\.jsonl")
_STREAM = re.compile(r"control|(audit|denied)/[\w@-]+")


def _open_private(path: str, flags: int) -> int:
    # Streams may hold values, so a planted symbolic link or pipe must not redirect them.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    """Replace a file atomically and durably."""
    draft = path.with_name(DRAFT)
    draft.unlink(missing_ok=True)
    with open(draft, "xb", opener=_open_private) as file:
        file.write(json.dumps({"format": FORMAT, **record}, indent=1).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    _sync_folder(path.parent)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(read_bytes(str(path), MAX_JSON_BYTES))
        require_format(f"`{path}`", record)
    except (ValueError, AttributeError, RecursionError):
        raise _unreadable(path) from None
    return dict(record)


def _unreadable(path: Path) -> ArchiveError:
    is_link = path.is_symlink()
    return ArchiveError(
        "archive",
        f"cannot read `{path}`",
        help="it is a symbolic link: replace it with the file"
        if is_link
        else "restore it from a backup",
    )


def _make_folder(path: Path) -> None:
    """Create a folder and its parents durably."""
    if not path.is_dir():
        _make_folder(path.parent)
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or "failed").lower()
            if path.is_symlink():
                reason = "it is a symbolic link that does not lead to a directory"
            raise ArchiveError(
                "archive",
                f"cannot use `{path}`: {reason}",
                help="name a directory in one that exists and that you may write to",
            ) from None
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Archive:
    """The content of `archive.json`.

    Attributes:
        id: Generated with the archive; part of the server's records of what it has.
        place: Host and directory where the archive was created: a name for people.
        streams: The names of the streams with a folder.
    """

    directory: Path
    id: str
    place: str
    streams: set[str] = field(default_factory=set)

    @property
    def empty_record(self) -> ExportRecord:
        """Return the record of a stream of which it has nothing yet."""
        return ExportRecord(self.id, self.place)

    def save(self) -> None:
        """Write `archive.json`."""
        record = {"id": self.id, "place": self.place, "streams": sorted(self.streams)}
        _write_json(self.directory / ARCHIVE, record)


@contextmanager
def locked_archive(directory: Path) -> Iterator[Archive]:
    """Lock an archive for writing; create it if *directory* is empty."""
    _make_folder(directory.absolute())
    # Before the lock file is created.
    if not (directory / ARCHIVE).exists() and set(os.listdir(directory)) - {LOCK, DRAFT}:
        raise ArchiveError(
            "archive",
            f"`{directory}` is not empty, and not an archive",
            help=f"name an empty or a new directory, or restore `{ARCHIVE}`",
        )
    file = _open_lock(directory / LOCK)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 20, 0).decode(errors="replace")
            raise ArchiveError(
                "archive-busy",
                f"another archiver (pid {holder}) is at work in `{directory}`",
                help="let it finish, or stop it first; `--follow` exports everything",
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        if not (directory / ARCHIVE).exists():
            place = f"{socket.gethostname()}:{directory.absolute()}"
            Archive(directory, secrets.token_hex(6), place).save()
        yield read_archive(directory)
    finally:
        os.close(file)


def _open_lock(path: Path) -> int:
    # Neither a planted symbolic link nor a pipe, which waits for a writer, is opened.
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OperationError("file", f"cannot read `{path}`: it is not a regular file")
    return _open_private(str(path), os.O_RDWR | os.O_CREAT)


def read_archive(directory: Path) -> Archive:
    """Read `archive.json`."""
    path = directory / ARCHIVE
    if not path.exists():
        raise ArchiveError(
            "archive",
            f"`{directory}` is not an archive: it has no `{ARCHIVE}`",
            help="name the directory of `keyleash audit export --to`",
        )
    try:
        record = _read_json(path)
        archive = Archive(directory, record["id"], record["place"], {*record["streams"]})
        # They become paths.
        if not all(map(_STREAM.fullmatch, archive.streams)):
            raise _unreadable(path)
    except (KeyError, TypeError):
        raise _unreadable(path) from None
    return archive


@dataclass(frozen=True, slots=True)
class Cursor:
    """The end of what was exported to a folder; what a crash left after it is written again.

    Attributes:
        stream: The name of the folder.
        id: Of the last entry.
        seq: The last sequence number; 0 if there is none.
        count: Number of entries.
        chain: Digest of the last line.
        file: The name of the file with the last line; empty if there is none.
        offset: The size of that file up to the end of the line.
    """

    stream: str
    id: str = BEFORE_ALL
    seq: int = 0
    count: int = 0
    chain: str = NO_CHAIN
    file: str = ""
    offset: int = 0

    def files(self, directory: Path, since: str = "") -> list[tuple[Path, int]]:
        """Return its files from a name on, each with the place where what was exported ends."""
        ends = {self.file: self.offset}
        files = day_files(directory / self.stream, since)
        names = [path for path in files if path.name <= self.file]
        return [(path, ends.get(path.name, sys.maxsize)) for path in names]


def read_cursor(archive: Archive, stream: str) -> Cursor:
    """Read the cursor of a stream; return one at its beginning if the archive lists none."""
    path = archive.directory / stream / CURSOR
    if not path.exists() and stream not in archive.streams:
        return Cursor(stream)
    try:
        cursor = Cursor(**_read_json(path))
        types = [[type(value) for value in astuple(item)] for item in (cursor, Cursor(stream))]
        if cursor.stream != stream or types[0] != types[1]:
            raise _unreadable(path)
        if cursor.id != BEFORE_ALL and cursor.file != file_of(id_order(cursor.id)[0]):
            raise _unreadable(path)
    except (ValueError, TypeError, AttributeError):
        raise _unreadable(path) from None
    return cursor


def day_files(folder: Path, since: str = "") -> list[Path]:
    """Return the files of a folder in order, from the name *since* on."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if _DAY_FILE.fullmatch(path.name) and path.name >= since
    )


class StreamFolder:
    """A folder that an archiver writes.

    Attributes:
        cursor: The end of what is on disk.
    """

    def __init__(self, archive: Archive, stream: AuditStream) -> None:
        self.archive, self.stream = archive, stream
        self.path = archive.directory / stream.name
        self.cursor = read_cursor(archive, stream.name)

    @property
    def record(self) -> ExportRecord:
        """Return what the server is to record."""
        return replace(self.archive.empty_record, id=self.cursor.id, chain=self.cursor.chain)

    def rows_after(self, entry_id: str) -> Iterator[tuple[ArchiveRow, str]]:
        """Yield the rows after an id up to the cursor, each with the digest of its line.

        Raises:
            ValueError: A line is not an entry.
        """
        after = id_order(entry_id)
        for path, end in self.cursor.files(self.archive.directory, file_of(after[0])):
            for line in bounded_lines(path, end):
                row = read_row(line)
                if id_order(row.id) > after:
                    yield row, digest_of(line)

    def append(self, rows: Sequence[ArchiveRow]) -> None:
        """Write rows of one day, and then the cursor; after an error they count as not written."""
        chain, lines = self.cursor.chain, []
        for row in rows:
            lines.append(line_of(row, self.stream, chain))
            chain = digest_of(lines[-1])
        try:
            _make_folder(self.path)
            offset = self._write(rows[0].file, b"".join(lines))
            seq = next((row.seq for row in reversed(rows) if row.seq), self.cursor.seq)
            count = self.cursor.count + len(rows)
            end = (rows[-1].id, seq, count, chain, rows[0].file, offset)
            cursor = Cursor(self.stream.name, *end)
            _write_json(self.path / CURSOR, asdict(cursor))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ArchiveError(
                "archive-write",
                f"cannot write in `{self.path}`: {reason}; its entries are not exported",
                help="free some space and run the command again; it continues there",
            ) from error
        self.cursor = cursor

    def _write(self, name: str, data: bytes) -> int:
        """Append to a file, without what a crash left after the cursor; return its size."""
        for path in day_files(self.path, self.cursor.file):
            if path.name != self.cursor.file:
                path.unlink()
        if self.cursor.file:
            self._cut()
        with open(self.path / name, "ab", opener=_open_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        if name != self.cursor.file:
            _sync_folder(self.path)
        return size

    def _cut(self) -> None:
        """Truncate the last file to the cursor."""
        path = self.path / self.cursor.file
        with open(path, "ab", opener=_open_private) as file:
            size = os.fstat(file.fileno()).st_size
            if size < self.cursor.offset:
                raise ArchiveError(
                    "archive",
                    f"`{path}` has {size} bytes, and had {self.cursor.offset}",
                    help="restore the file from a backup",
                )
            file.truncate(self.cursor.offset)
