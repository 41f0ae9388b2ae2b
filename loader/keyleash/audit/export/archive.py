"""
A directory with the exported trails of one server: a folder for each, and what is common.

    archive.json                        whose it is, and how far exports were recorded
    archive.lock                        held by the archiver that is at work
    audit/agent-runner/manifest.json    see manifest.py
    audit/agent-runner/00000001_1764028867123-0.jsonl
    denied/agent-runner/…  audit/@operators/…  control/…
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from keyleash.audit.export.files import DRAFT, make_folder, recovery_of, write_json
from keyleash.errors import ArchiveBusyError, ArchiveError

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
        ArchiveBusyError: another archiver is at work there.
        ArchiveError: there is something in it that is no archive.
        OSError: it cannot be made or read.
    """
    make_folder(directory.absolute())
    # Before the lock makes it one that is not empty.
    if not (directory / ARCHIVE).exists() and set(os.listdir(directory)) - {LOCK, DRAFT}:
        raise ArchiveError(
            f"`{directory}` is not empty, and no archive",
            help=f"name an empty or a new directory, or bring `{ARCHIVE}` back",
        )
    file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if not _gets(file):
            holder = os.pread(file, 20, 0).decode(errors="replace")
            raise ArchiveBusyError(
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
        ArchiveError: *directory* is none.
    """
    try:
        said = json.loads((directory / ARCHIVE).read_bytes())
        if said["version"] != VERSION:
            raise ArchiveError(f"`{directory}` is an archive of version {said['version']}")
        marks = {name: Mark(**mark) for name, mark in said["marks"].items()}
        return Archive(directory, said["id"], said["place"], marks)
    except FileNotFoundError:
        raise ArchiveError(
            f"`{directory}` is no archive: it has no `{ARCHIVE}`",
            help="name the directory that was given to `keyleash audit export --to`",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        path = directory / ARCHIVE
        raise ArchiveError(f"cannot read `{path}`", help=recovery_of(path)) from None


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
