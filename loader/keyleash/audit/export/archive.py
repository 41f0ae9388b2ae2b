"""An archive directory: its lock, the manifest of each folder, and its files.

    archive.json                        the archive's id, and the recorded extent of each folder
    archive.lock                        held by the running archiver
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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from keyleash.audit.export.rows import ArchiveRow, lines_of, open_regular, read_rows
from keyleash.audit.streams import id_order
from keyleash.errors import ArchiveError, OperationError
from keyleash.policy.files import read_bytes
from keyleash.store.streams import AuditStream

ARCHIVE = "archive.json"
LOCK = "archive.lock"
MANIFEST = "manifest.json"
DRAFT = "draft.tmp"
"""The name of an incomplete file; a folder has at most one."""
FILE_NAME = re.compile(r"(\d{8,})_(\d+-\d+)\.jsonl")
VERSION = 2
"""The version of `archive.json` and of manifests; there is no conversion of others."""
ATTEMPTS = 5
PAUSE_S = 0.1
FILES_PER_MANIFEST = 1000
"""A full manifest is closed under another name, so that each rewrite stays short."""
NO_CHAIN = "0" * 64
_BUFFER = 1 << 20
MAX_JSON_BYTES = 64 << 20  # of an `archive.json` with all folders


class Draft:
    """A file that gets its name once it is complete and on disk; without `keep`, it is removed.

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

    def __exit__(self, *_error: object) -> None:
        # What is still in the buffer is written when the file is closed, and fails once more.
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """Return the digest of the bytes written so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def keep(self, name: str) -> None:
        """Give the file its name, replacing any other of that name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.rename(self._folder / name)
        _sync_folder(self._folder)


def _open_private(path: str, flags: int) -> int:
    # Streams may hold values, so a planted symbolic link must not redirect them.
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _write_json(path: Path, value: Any) -> None:
    """Replace the file at *path* with *value* atomically."""
    with Draft(path.parent) as draft:
        draft.write(json.dumps(value, indent=1).encode() + b"\n")
        draft.keep(path.name)


def _recovery_of(path: Path) -> str:
    if path.is_symlink():
        return "it is a symbolic link: replace it with the file"
    return "restore it from a backup"


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


def file_sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Extent:
    """The extent of a folder up to some file: numbers of files and entries.

    Attributes:
        last: Id of the last entry; empty if there is none.
        last_seq: The last sequence number; 0 if there is none.
        chain: Chain of the last file.
    """

    files: int = 0
    count: int = 0
    last: str = ""
    last_seq: int = 0
    chain: str = NO_CHAIN


@dataclass(frozen=True, slots=True)
class Archive:
    """The content of `archive.json`.

    Attributes:
        id: Generated with the archive; part of the names of its consumer groups.
        place: Host and directory where the archive was created: a name for people.
        marks: The extent of each folder when an export was last recorded in the control stream.
    """

    directory: Path
    id: str
    place: str
    marks: dict[str, Extent] = field(default_factory=dict)

    def save(self) -> None:
        marks = {name: asdict(mark) for name, mark in sorted(self.marks.items())}
        record = {"version": VERSION, "id": self.id, "place": self.place, "marks": marks}
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
    file = _open_lock(directory, os.O_RDWR | os.O_CREAT)
    try:
        # `verify` holds the lock for a moment to check whether it is free.
        for _ in range(ATTEMPTS):
            if _try_lock(file, fcntl.LOCK_EX):
                break
            time.sleep(PAUSE_S)
        else:
            holder = os.pread(file, 20, 0).decode(errors="replace")
            raise ArchiveError(
                "archive-busy",
                f"another archiver (pid {holder}) is at work in `{directory}`",
                help="let it finish, or stop it first; `--follow` exports everything",
            )
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        (directory / DRAFT).unlink(missing_ok=True)
        if not (directory / ARCHIVE).exists():
            place = f"{socket.gethostname()}:{directory.absolute()}"
            Archive(directory, secrets.token_hex(6), place).save()
        yield read_archive(directory)
    finally:
        os.close(file)


def is_being_written(directory: Path) -> bool:
    """Return whether an archiver is running there."""
    with suppress(OSError):
        file = _open_lock(directory, os.O_RDONLY)
        try:
            return not _try_lock(file, fcntl.LOCK_SH)
        finally:
            os.close(file)
    return False


def _open_lock(directory: Path, flags: int) -> int:
    # Neither a planted symbolic link nor a pipe, which waits for a writer, is opened.
    path = directory / LOCK
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OperationError("file", f"cannot read `{path}`: it is not a regular file")
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


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
        record = json.loads(read_bytes(str(path), MAX_JSON_BYTES))
        if record["version"] != VERSION:
            raise ArchiveError(
                "archive",
                f"`{directory}` is an archive of another version, {record['version']!r};"
                f" this keyleash has version {VERSION}",
                help="export to a new directory; verify this one with the keyleash that wrote it",
            )
        marks = {name: Extent(**mark) for name, mark in record["marks"].items()}
        return Archive(directory, record["id"], record["place"], marks)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArchiveError("archive", f"cannot read `{path}`", help=_recovery_of(path)) from None


def _try_lock(file: int, mode: int) -> bool:
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(slots=True)
class ArchivedFile:
    """A file of a folder, as its manifest lists it.

    Attributes:
        first, last: Ids of its first and last entry.
        count: Number of entries.
        first_seq, last_seq: Its first and last sequence number; 0 if it has none.
        chain: See the module.
    """

    name: str = ""
    first: str = ""
    last: str = ""
    count: int = 0
    first_seq: int = 0
    last_seq: int = 0
    bytes: int = 0
    sha256: str = ""
    chain: str = ""

    def add(self, row: ArchiveRow) -> None:
        """Count the next row; ValueError if it does not come after the one before it."""
        if self.last and id_order(row.id) <= id_order(self.last):
            raise ValueError(f"{row.id} comes after {self.last}")
        self.first = self.first or row.id
        self.last = row.id
        self.count += 1
        self.first_seq = self.first_seq or row.seq
        self.last_seq = row.seq or self.last_seq

    def finish(self, before: Extent, size: int, sha256: str) -> None:
        """Set what is known once the file is complete; *before* is the extent before it."""
        self.name = f"{file_prefix(before.files + 1, self.first)}.jsonl"
        self.bytes, self.sha256 = size, sha256
        self.chain = next_chain(before.chain, sha256)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest of a folder: the extent up to the end of the previous one, and files after it."""

    stream: str
    before: Extent = Extent()
    files: tuple[ArchivedFile, ...] = ()

    @property
    def end(self) -> Extent:
        """Return the extent up to its last file."""
        if not self.files:
            return self.before
        numbers = (file.last_seq for file in reversed(self.files) if file.last_seq)
        return Extent(
            files=self.before.files + len(self.files),
            count=self.before.count + sum(file.count for file in self.files),
            last=self.files[-1].last,
            last_seq=next(numbers, self.before.last_seq),
            chain=self.files[-1].chain,
        )

    @property
    def is_full(self) -> bool:
        """Return whether the next file needs a new manifest."""
        return len(self.files) >= FILES_PER_MANIFEST


def closed_name(end: Extent) -> str:
    """Return the name of the closed manifest that ends at *end*."""
    return f"manifest-{end.files:08d}.json"


def file_prefix(number: int, first: str = "") -> str:
    """Return the beginning of a file's name: its number, and the id of its first entry."""
    return f"{number:08d}_{first}"


def next_chain(chain: str, sha256: str) -> str:
    """Return the chain of a file from that of the file before it."""
    return hashlib.sha256((chain + sha256).encode()).hexdigest()


def add_file(folder: Path, manifest: Manifest, file: ArchivedFile) -> Manifest:
    """Write the manifest that lists *file* too, and return it."""
    before, files = manifest.before, manifest.files
    if manifest.is_full:
        before, files = manifest.end, ()
        _write_json(folder / closed_name(before), {"version": VERSION, **asdict(manifest)})
    longer = Manifest(manifest.stream, before, (*files, file))
    _write_json(folder / MANIFEST, {"version": VERSION, **asdict(longer)})
    return longer


def read_manifest(folder: Path, stream: str, name: str = MANIFEST) -> Manifest:
    """Read a folder's manifest; return an empty one if there is none yet."""
    path = folder / name
    if not path.exists():
        if name != MANIFEST:
            raise _unreadable(path, "it is missing")
        return Manifest(stream)
    try:
        record = json.loads(read_bytes(str(path), MAX_JSON_BYTES))
        if record["version"] != VERSION:
            raise _unreadable(path, f"it is of another version, {record['version']!r}")
        if record["stream"] != stream:
            raise _unreadable(path, f"it belongs to `{record['stream']}`")
        files = tuple(ArchivedFile(**file) for file in record["files"])
        manifest = Manifest(stream, Extent(**record["before"]), files)
        closed_name(manifest.end)  # A number, since it becomes part of a path.
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _unreadable(path, "it is not a manifest") from None
    return manifest


def _unreadable(path: Path, reason: str) -> ArchiveError:
    return ArchiveError(
        "archive",
        f"cannot read the manifest `{path}`: {reason}",
        help=f"{_recovery_of(path)}; without it the extent of the export is not known",
    )


class StreamFolder:
    """A folder that an archiver writes; it must agree with its manifest and the archive's marks."""

    def __init__(self, archive: Archive, stream: AuditStream) -> None:
        self.path = archive.directory / stream.name
        self._stream = stream
        self._manifest = read_manifest(self.path, stream.name)
        if self.path.is_dir():
            self._recover()
        mark = archive.marks.get(stream.name)
        if mark is not None and mark.files > self.end.files:
            raise ArchiveError(
                "archive",
                f"`{self.path}` has {self.end.files} files, but {mark.files} were recorded",
                help="restore the folder from a backup, with its manifest",
            )

    @property
    def end(self) -> Extent:
        return self._manifest.end

    def write(self, pages: Iterable[list[ArchiveRow]]) -> ArchivedFile:
        """Write the next file, and list it; after an OSError, such as a full disk, it is gone."""
        _make_folder(self.path)
        file = ArchivedFile()
        with Draft(self.path) as draft:
            for page in pages:
                draft.write(lines_of(page, self._stream))
                for row in page:
                    file.add(row)
            file.finish(self.end, draft.size, draft.sha256)
            try:
                draft.keep(file.name)
                self._list(file)
            except OSError:
                # Not exported unless listed. Either write may have succeeded before the failure.
                if read_manifest(self.path, self._stream.name).end == self.end:
                    (self.path / file.name).unlink(missing_ok=True)
                raise
        return file

    def _list(self, file: ArchivedFile) -> None:
        self._manifest = add_file(self.path, self._manifest, file)

    def _recover(self) -> None:
        """Remove a draft, and list a complete file that a crash left unlisted.

        Its entries may have been trimmed from the stream since, so it must not be removed.
        """
        (self.path / DRAFT).unlink(missing_ok=True)
        listed = {file.name for file in self._manifest.files}
        unlisted = [
            path
            for path in sorted(self.path.iterdir())
            if (match := FILE_NAME.fullmatch(path.name))
            and path.name not in listed
            and int(match[1]) > self._manifest.before.files
        ]
        if not unlisted:
            return
        try:
            (path,) = unlisted
            file = _read_file(path, self.end)
        except ValueError:
            raise ArchiveError(
                "archive",
                f"`{unlisted[0]}` is in no manifest, and cannot be left from a crash",
                help="if the manifest is old, restore the newest; else move the file away",
            ) from None
        self._list(file)


def _read_file(path: Path, end: Extent) -> ArchivedFile:
    """Return the manifest entry of the file after *end*; ValueError if *path* is not that file."""
    file = ArchivedFile(last=end.last)
    for row in read_rows(path):
        file.add(row)
    file.finish(end, path.stat().st_size, file_sha256(path))
    if file.name != path.name:
        raise ValueError("its name does not match its content")
    return file
