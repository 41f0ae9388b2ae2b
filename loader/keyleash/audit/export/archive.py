"""An archive directory: its files, its lock and its manifest."""

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
"""What a file is called that is not whole yet; each folder has one at most."""
_BUFFER = 1 << 20


class Draft:
    """
    A file that gets its name once it is whole and on the disk. Left without `keep`, it is gone.

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
        """Of what was written so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)
        return len(data)

    def keep(self, name: str) -> None:
        """Give the file its name, in place of any other of that name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.rename(self._folder / name)
        sync_folder(self._folder)


def _open_private(path: str, flags: int) -> int:
    # Trails may hold values, and whoever puts a link there must not choose where they go.
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def write_json(path: Path, value: Any) -> None:
    """Put *value* in the place of what *path* holds, in one step."""
    with Draft(path.parent) as draft:
        draft.write(json.dumps(value, indent=1).encode() + b"\n")
        draft.keep(path.name)


def recovery_of(path: Path) -> str:
    """Return how to recover a file of an archive that cannot be read, as help for an error."""
    if path.is_symlink():
        return "it is a symbolic link: put the file itself in its place"
    return "bring it back from a backup"


def make_folder(path: Path) -> None:
    """Make a folder, with those above it, to be there after a crash too."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# A directory with the exported trails of one server: a folder for each, and what is common.
#
#     archive.json                        whose it is, and how far exports were recorded
#     archive.lock                        held by the archiver that is at work
#     audit/agent-runner/manifest.json    see manifest.py
#     audit/agent-runner/00000001_1764028867123-0.jsonl
#     denied/agent-runner/…  audit/@operators/…  control/…

ARCHIVE = "archive.json"
LOCK = "archive.lock"
VERSION = 1
ATTEMPTS = 5
PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Mark:
    """
    How far a folder was when an export was last recorded in the control stream.

    Attributes:
        files: How many files it had.
        count: How many entries.
        last: Id of the last one; empty if it had none.
        chain: Of the last file.
    """

    files: int = 0
    count: int = 0
    last: str = ""
    chain: str = ""


@dataclass(frozen=True, slots=True)
class Archive:
    """
    What `archive.json` says.

    Attributes:
        id: Made when the archive was begun; part of the names of its consumer groups.
        place: Host and directory where it was begun: a name for people.
        marks: Of each folder that was recorded.
    """

    directory: Path
    id: str
    place: str
    marks: Mapping[str, Mark]

    def with_marks(self, marks: Mapping[str, Mark]) -> Archive:
        """Write down how far folders are recorded now."""
        return _written(Archive(self.directory, self.id, self.place, {**self.marks, **marks}))


@contextmanager
def locked_archive(directory: Path) -> Iterator[Archive]:
    """
    An archive to write to, begun if there is nothing in *directory*, locked against others.

    Raises:
        ArchiveError (archive-busy): another archiver is at work there.
        ArchiveError (archive): there is something in it that is no archive.
        OSError: it cannot be made or read.
    """
    make_folder(directory.absolute())
    # Before the lock makes it one that is not empty.
    if not (directory / ARCHIVE).exists() and set(os.listdir(directory)) - {LOCK, DRAFT}:
        raise ArchiveError(
            "archive",
            f"`{directory}` is not empty, and no archive",
            help=f"name an empty or a new directory, or bring `{ARCHIVE}` back",
        )
    file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if not _gets(file):
            holder = os.pread(file, 20, 0).decode(errors="replace")
            raise ArchiveError(
                "archive-busy",
                f"another archiver (pid {holder}) is at work in `{directory}`",
                help="let it go on, or end it first; one with `--follow` exports all there is",
            )
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        yield _read_or_begin(directory)
    finally:
        os.close(file)


def is_being_written(directory: Path) -> bool:
    """Whether an archiver is at work there."""
    with suppress(OSError):
        file = os.open(directory / LOCK, os.O_RDONLY)
        try:
            return not _locks(file, fcntl.LOCK_SH)
        finally:
            os.close(file)
    return False


def read_archive(directory: Path) -> Archive:
    """Read what an archive says of itself.

    Raises:
        ArchiveError (archive): *directory* is none.
    """
    try:
        said = json.loads((directory / ARCHIVE).read_bytes())
        if said["version"] != VERSION:
            raise ArchiveError(
                "archive", f"`{directory}` is an archive of version {said['version']}"
            )
        marks = {name: Mark(**mark) for name, mark in said["marks"].items()}
        return Archive(directory, said["id"], said["place"], marks)
    except FileNotFoundError:
        raise ArchiveError(
            "archive",
            f"`{directory}` is no archive: it has no `{ARCHIVE}`",
            help="name the directory that was given to `keyleash audit export --to`",
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
    said = {"version": VERSION, "id": archive.id, "place": archive.place, "marks": marks}
    write_json(archive.directory / ARCHIVE, said)
    return archive


def _gets(file: int) -> bool:
    # Not refused at once: `verify` holds the lock for a moment, to see whether it is free.
    for _ in range(ATTEMPTS):
        if _locks(file, fcntl.LOCK_EX):
            return True
        time.sleep(PAUSE_S)
    return False


def _locks(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# The manifest of a folder: which files it has, what is in each, and how they hang together.
#
# `chain` of a file is the SHA-256, in hex, of the chain of the file before it and the SHA-256 of
# its own content, both as 64 hex digits, one behind the other. Before the first file stand 64
# zeros. So who knows one chain knows whether any file up to there was changed, removed or added.
#
# A manifest is written anew with each file. So that this does not take longer and longer, one
# that lists `FILES_PER_MANIFEST` files is closed under another name, and the next goes on from it.

MANIFEST = "manifest.json"
CLOSED_MANIFEST = re.compile(r"manifest-\d{8,}\.json")
FILES_PER_MANIFEST = 1000
NO_CHAIN = "0" * 64


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """
    A file of a folder.

    Attributes:
        first: Id of its first entry.
        last: Id of its last.
        count: How many entries it has.
        first_seq: The first sequence number in it; 0 if it has none.
        last_seq: The last, likewise.
        sha256: Of its content.
        chain: See above.
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
    Where a manifest goes on from: how the one before it ended.

    Attributes:
        manifest: Its name; empty if there is none.
        files: How many files there are up to its end.
        count: How many entries.
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
    What a folder's newest manifest says.

    Attributes:
        trail: The folder's name in the archive.
        before: How the manifest before it ended.
        files: Those after that, in order.
    """

    stream: str
    before: Head = Head()
    files: tuple[ArchivedFile, ...] = ()

    @property
    def head(self) -> Head:
        """How it ends."""
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
        """Whether another one goes on from it."""
        return len(self.files) >= FILES_PER_MANIFEST


def next_chain(chain: str, sha256: str) -> str:
    """The chain of a file, from that of the file before it."""
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
    """Read a folder's manifest; an empty one if there is none yet.

    Raises:
        ArchiveError (archive): it is none that can be read, or that of another trail.
    """
    path = folder / name
    try:
        said = json.loads(path.read_bytes())
        if said["version"] != VERSION:
            raise _unreadable(path, f"version {said['version']} is not known")
        if said["trail"] != stream:
            raise _unreadable(path, f"it is that of `{said['trail']}`")
        files = tuple(ArchivedFile(**file) for file in said["files"])
        return Manifest(stream, Head(**said["before"]), files)
    except FileNotFoundError:
        if name != MANIFEST:
            raise _unreadable(path, "it is missing") from None
        return Manifest(stream)
    except (ValueError, KeyError, TypeError):
        raise _unreadable(path, "it is no manifest") from None


def _unreadable(path: Path, why: str) -> ArchiveError:
    return ArchiveError(
        "archive",
        f"cannot read the manifest `{path}`: {why}",
        help=f"{recovery_of(path)}; without it nobody knows what was exported",
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
    """What a manifest says of rows, taken row by row."""

    def __init__(self) -> None:
        self.first = self.last = ""
        self.count = self.first_seq = self.last_seq = 0

    def add(self, row: ArchiveRow) -> None:
        """Take the next row.

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
        """The manifest's line; *chain* is that of the file before."""
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
    A folder that an archiver writes to.

    Raises:
        ArchiveError (archive): it is not as its manifest and the archive's marks have it.
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
                f"`{self.path}` has {self.head.files} files, of which {mark.files} were recorded",
                help="bring the folder back from a backup, with its manifest",
            )

    @property
    def head(self) -> Head:
        """How the folder ends."""
        return self._manifest.head

    def write(self, pages: Iterable[list[ArchiveRow]], file_format: FileFormat) -> ArchivedFile:
        """
        Write the next file, and list it.

        Raises:
            OSError: the disk is full or the like; then there is no such file.
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
                # Not listed, so not exported, and the disk may be full. But either may have got
                # its name before it failed.
                if read_manifest(self.path, self._stream.name).head == self.head:
                    (self.path / name).unlink(missing_ok=True)
                raise
        return file

    def _list(self, file: ArchivedFile) -> None:
        self._manifest = add_file(self.path, self._manifest, file)

    def _tidy(self) -> None:
        """
        Remove what is not whole, and list what is: a crash leaves at most one file that is
        named but not listed. It was on the disk before it got its name, and it may be all that
        is left of entries that were trimmed since, so it is not thrown away.
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
                f"`{left[0]}` is in no manifest, and no crash can have left it",
                help="if the manifest is an old one, bring the newest back; else move it away",
            ) from None
        self._list(file)


def _read_file(path: Path, head: Head) -> ArchivedFile:
    """What the manifest is to say of the file that comes next.

    Raises:
        ValueError: this one does not.
    """
    summary = Summary()
    summary.last = head.last
    for row in read_rows(path):
        summary.add(row)
    file = summary.file(path.name, path.stat().st_size, file_sha256(path), head.chain)
    if not file.name.startswith(f"{head.files + 1:08}_{file.first}."):
        raise ValueError("its name is that of another one")
    return file
