"""An archive directory: its lock, the manifest of each folder, and its files.

    archive.json                        the archive's id, and the recorded extent of each folder
    archive.lock                        held by the archiver at work
    audit/agent-runner/manifest.json    the files of a folder with their chain of digests
    audit/agent-runner/00000001_1764028867123-0.jsonl
    denied/agent-runner/…  audit/@operators/…  control/…

The `chain` of a file is the SHA-256 in hex of the chain of the file before it and the SHA-256 of
its own content, as 64 hex digits each; 64 zeros precede the first file. So one chain proves that
no file up to there was changed, removed or added.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keyleash.audit.export.rows import (
    ArchiveRow,
    ExportedStream,
    FileFormat,
    id_order,
    read_rows,
    row_writer,
)
from keyleash.errors import ArchiveError

DRAFT = "draft.tmp"
"""The name of an incomplete file; a folder has at most one."""
_BUFFER = 1 << 20


class Draft:
    """
    A file that gets its name once it is complete and on disk; without `keep`, it is removed.

    Attributes:
        size: Bytes written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / DRAFT
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Self:
        self._file = open(self._path, "wb", _BUFFER, opener=_open_private)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What is still in the buffer is written when the file is closed, and fails once more.
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """Return the digest of the bytes written so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)
        return len(data)

    def keep(self, name: str) -> None:
        """Give the file its name, replacing any other of that name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.rename(self._folder / name)
        sync_folder(self._folder)


def _open_private(path: str, flags: int) -> int:
    # Streams may hold values, so a planted symbolic link must not redirect them.
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def write_json(path: Path, value: Any) -> None:
    """Replace the file at *path* with *value* atomically."""
    with Draft(path.parent) as draft:
        draft.write(json.dumps(value, indent=1).encode() + b"\n")
        draft.keep(path.name)


def recovery_of(path: Path) -> str:
    """Return how to recover a file of an archive that cannot be read, as help for an error."""
    if path.is_symlink():
        return "it is a symbolic link: replace it with the file"
    return "restore it from a backup"


def make_folder(path: Path) -> None:
    """Create a folder and its parents durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Write the names in a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


ARCHIVE = "archive.json"
LOCK = "archive.lock"
VERSION = 1
ATTEMPTS = 5
PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Mark:
    """
    The extent of a folder when an export was last recorded in the control stream.

    Attributes:
        files: Number of files.
        count: Number of entries.
        last: Id of the last entry; empty if there is none.
        chain: Chain of the last file.
    """

    files: int = 0
    count: int = 0
    last: str = ""
    chain: str = ""


@dataclass(frozen=True, slots=True)
class Archive:
    """
    The content of `archive.json`.

    Attributes:
        id: Generated with the archive; part of the names of its consumer groups.
        place: Host and directory where the archive was created: a name for people.
        marks: The recorded extent of each folder.
    """

    directory: Path
    id: str
    place: str
    marks: Mapping[str, Mark]

    def with_marks(self, marks: Mapping[str, Mark]) -> Archive:
        """Store the recorded extent of folders."""
        return _written(Archive(self.directory, self.id, self.place, {**self.marks, **marks}))


@contextmanager
def locked_archive(directory: Path) -> Iterator[Archive]:
    """
    Lock an archive for writing; create it if *directory* is empty.

    Raises:
        ArchiveError (archive-busy): another archiver is at work there.
        ArchiveError (archive): there is something in it that is no archive.
        OSError: it cannot be made or read.
    """
    make_folder(directory.absolute())
    # Before the lock file is created.
    if not (directory / ARCHIVE).exists() and set(os.listdir(directory)) - {LOCK, DRAFT}:
        raise ArchiveError(
            "archive",
            f"`{directory}` is not empty, and not an archive",
            help=f"name an empty or a new directory, or restore `{ARCHIVE}`",
        )
    file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if not _lock_for_writing(file):
            holder = os.pread(file, 20, 0).decode(errors="replace")
            raise ArchiveError(
                "archive-busy",
                f"another archiver (pid {holder}) is at work in `{directory}`",
                help="let it finish, or stop it first; `--follow` exports everything",
            )
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        yield _read_or_begin(directory)
    finally:
        os.close(file)


def is_being_written(directory: Path) -> bool:
    """Return whether an archiver is at work there."""
    with suppress(OSError):
        file = os.open(directory / LOCK, os.O_RDONLY)
        try:
            return not _try_lock(file, fcntl.LOCK_SH)
        finally:
            os.close(file)
    return False


def read_archive(directory: Path) -> Archive:
    """Read `archive.json`.

    Raises:
        ArchiveError (archive): *directory* is none.
    """
    try:
        record = json.loads((directory / ARCHIVE).read_bytes())
        if record["version"] != VERSION:
            raise ArchiveError(
                "archive", f"`{directory}` is an archive of version {record['version']}"
            )
        marks = {name: Mark(**mark) for name, mark in record["marks"].items()}
        return Archive(directory, record["id"], record["place"], marks)
    except FileNotFoundError:
        raise ArchiveError(
            "archive",
            f"`{directory}` is not an archive: it has no `{ARCHIVE}`",
            help="name the directory of `keyleash audit export --to`",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        path = directory / ARCHIVE
        raise ArchiveError("archive", f"cannot read `{path}`", help=recovery_of(path)) from None


def _read_or_begin(directory: Path) -> Archive:
    (directory / DRAFT).unlink(missing_ok=True)
    if (directory / ARCHIVE).exists():
        return read_archive(directory)
    place = f"{socket.gethostname()}:{directory.absolute()}"
    return _written(Archive(directory, secrets.token_hex(6), place, {}))


def _written(archive: Archive) -> Archive:
    marks = {name: asdict(mark) for name, mark in sorted(archive.marks.items())}
    record = {"version": VERSION, "id": archive.id, "place": archive.place, "marks": marks}
    write_json(archive.directory / ARCHIVE, record)
    return archive


def _lock_for_writing(file: int) -> bool:
    # `verify` holds the lock for a moment to check whether it is free.
    for _ in range(ATTEMPTS):
        if _try_lock(file, fcntl.LOCK_EX):
            return True
        time.sleep(PAUSE_S)
    return False


def _try_lock(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


MANIFEST = "manifest.json"
CLOSED_MANIFEST = re.compile(r"manifest-\d{8,}\.json")
FILES_PER_MANIFEST = 1000
"""A full manifest is closed under another name, so that each rewrite stays short."""
NO_CHAIN = "0" * 64


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """
    A file of a folder.

    Attributes:
        first: Id of its first entry.
        last: Id of its last entry.
        count: Number of entries.
        first_seq: Its first sequence number; 0 if it has none.
        last_seq: Its last sequence number; 0 if it has none.
        sha256: Digest of its content.
        chain: See the module.
    """

    name: str
    first: str
    last: str
    count: int
    first_seq: int
    last_seq: int
    bytes: int
    sha256: str
    chain: str


@dataclass(frozen=True, slots=True)
class Head:
    """
    The end of a manifest, where the next one continues.

    Attributes:
        manifest: Its name; empty if there is none.
        files: Number of files up to its end.
        count: Number of entries.
        last: Id of the last entry; empty if there is none.
        last_seq: The last sequence number; 0 if there is none.
        chain: Of the last file.
    """

    manifest: str = ""
    files: int = 0
    count: int = 0
    last: str = ""
    last_seq: int = 0
    chain: str = NO_CHAIN


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    A manifest of a folder.

    Attributes:
        trail: The folder's name in the archive.
        before: The end of the previous manifest.
        files: The files after that, in order.
    """

    stream: str
    before: Head = Head()
    files: tuple[ArchivedFile, ...] = ()

    @property
    def head(self) -> Head:
        """Return its end."""
        if not self.files:
            return self.before
        numbers = (file.last_seq for file in reversed(self.files) if file.last_seq)
        number = self.before.files + len(self.files)
        return Head(
            manifest=f"manifest-{number:08}.json",
            files=number,
            count=self.before.count + sum(file.count for file in self.files),
            last=self.files[-1].last,
            last_seq=next(numbers, self.before.last_seq),
            chain=self.files[-1].chain,
        )

    @property
    def is_full(self) -> bool:
        """Return whether the next file needs a new manifest."""
        return len(self.files) >= FILES_PER_MANIFEST


def next_chain(chain: str, sha256: str) -> str:
    """Return the chain of a file from that of the file before it."""
    return hashlib.sha256((chain + sha256).encode()).hexdigest()


def add_file(folder: Path, manifest: Manifest, file: ArchivedFile) -> Manifest:
    """Write the manifest that lists *file* too, and return it."""
    before, files = manifest.before, manifest.files
    if manifest.is_full:
        before, files = manifest.head, ()
        write_json(folder / before.manifest, _as_json(manifest))
    longer = Manifest(manifest.stream, before, (*files, file))
    write_json(folder / MANIFEST, _as_json(longer))
    return longer


def read_manifest(folder: Path, stream: str, name: str = MANIFEST) -> Manifest:
    """Read a folder's manifest; return an empty one if there is none yet.

    Raises:
        ArchiveError (archive): it cannot be read, or belongs to another stream.
    """
    path = folder / name
    try:
        record = json.loads(path.read_bytes())
        if record["version"] != VERSION:
            raise _unreadable(path, f"version {record['version']} is not known")
        if record["trail"] != stream:
            raise _unreadable(path, f"it belongs to `{record['trail']}`")
        files = tuple(ArchivedFile(**file) for file in record["files"])
        return Manifest(stream, Head(**record["before"]), files)
    except FileNotFoundError:
        if name != MANIFEST:
            raise _unreadable(path, "it is missing") from None
        return Manifest(stream)
    except (ValueError, KeyError, TypeError):
        raise _unreadable(path, "it is not a manifest") from None


def _unreadable(path: Path, why: str) -> ArchiveError:
    return ArchiveError(
        "archive",
        f"cannot read the manifest `{path}`: {why}",
        help=f"{recovery_of(path)}; without it the extent of the export is not known",
    )


def _as_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "version": VERSION,
        "trail": manifest.stream,
        "before": asdict(manifest.before),
        "files": [asdict(file) for file in manifest.files],
    }


FILE_NAME = re.compile(r"(\d{8,})_(\d+-\d+)\.(jsonl|parquet)")


class Summary:
    """The manifest entry of a file, computed row by row."""

    def __init__(self) -> None:
        self.first = self.last = ""
        self.count = self.first_seq = self.last_seq = 0

    def add(self, row: ArchiveRow) -> None:
        """Add the next row.

        Raises:
            ValueError: it does not come after the one before it.
        """
        if self.last and id_order(row.id) <= id_order(self.last):
            raise ValueError(f"{row.id} comes after {self.last}")
        self.first = self.first or row.id
        self.last = row.id
        self.count += 1
        if row.seq:
            self.first_seq = self.first_seq or row.seq
            self.last_seq = row.seq

    def file(self, name: str, size: int, sha256: str, chain: str) -> ArchivedFile:
        """Return the manifest's entry; *chain* is that of the file before."""
        return ArchivedFile(
            name=name,
            first=self.first,
            last=self.last,
            count=self.count,
            first_seq=self.first_seq,
            last_seq=self.last_seq,
            bytes=size,
            sha256=sha256,
            chain=next_chain(chain, sha256),
        )


class StreamFolder:
    """
    A folder that an archiver writes.

    Raises:
        ArchiveError (archive): it contradicts its manifest or the archive's marks.
    """

    def __init__(self, archive: Archive, stream: ExportedStream) -> None:
        self.path = archive.directory / stream.name
        self._stream = stream
        self._manifest = read_manifest(self.path, stream.name)
        if self.path.is_dir():
            self._tidy()
        mark = archive.marks.get(stream.name)
        if mark is not None and mark.files > self.head.files:
            raise ArchiveError(
                "archive",
                f"`{self.path}` has {self.head.files} files, but {mark.files} were recorded",
                help="restore the folder from a backup, with its manifest",
            )

    @property
    def head(self) -> Head:
        """Return the end of the folder."""
        return self._manifest.head

    def write(self, pages: Iterable[list[ArchiveRow]], file_format: FileFormat) -> ArchivedFile:
        """
        Write the next file, and list it.

        Raises:
            OSError: the disk is full or the like; the file does not exist then.
        """
        make_folder(self.path)
        summary = Summary()
        with Draft(self.path) as draft:
            writer = row_writer(file_format, draft, self._stream)
            for page in pages:
                writer.write(page)
                for row in page:
                    summary.add(row)
            writer.close()
            name = f"{self.head.files + 1:08}_{summary.first}.{file_format}"
            file = summary.file(name, draft.size, draft.sha256, self.head.chain)
            try:
                draft.keep(name)
                self._list(file)
            except OSError:
                # Not exported unless listed. Either write may have succeeded before the failure.
                if read_manifest(self.path, self._stream.name).head == self.head:
                    (self.path / name).unlink(missing_ok=True)
                raise
        return file

    def _list(self, file: ArchivedFile) -> None:
        self._manifest = add_file(self.path, self._manifest, file)

    def _tidy(self) -> None:
        """
        Remove a draft, and list a complete file that a crash left unlisted.

        Its entries may have been trimmed from the stream since, so it must not be removed.
        """
        (self.path / DRAFT).unlink(missing_ok=True)
        listed = {file.name for file in self._manifest.files}
        number = self.head.files
        left = [
            path
            for path in sorted(self.path.iterdir())
            if (match := FILE_NAME.fullmatch(path.name))
            and path.name not in listed
            and int(match[1]) > number - len(listed)
        ]
        if not left:
            return
        try:
            (path,) = left
            file = _read_file(path, self.head)
        except ValueError:
            raise ArchiveError(
                "archive",
                f"`{left[0]}` is in no manifest, and cannot be left from a crash",
                help="if the manifest is old, restore the newest; else move the file away",
            ) from None
        self._list(file)


def _read_file(path: Path, head: Head) -> ArchivedFile:
    """Return the manifest entry of the next file.

    Raises:
        ValueError: *path* is not the next file.
    """
    summary = Summary()
    summary.last = head.last
    for row in read_rows(path):
        summary.add(row)
    file = summary.file(path.name, path.stat().st_size, file_sha256(path), head.chain)
    if not file.name.startswith(f"{head.files + 1:08}_{file.first}."):
        raise ValueError("its name does not match its content")
    return file
