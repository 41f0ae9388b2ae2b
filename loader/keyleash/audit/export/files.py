"""Files that are whole or not there: written under another name, flushed to the disk, renamed."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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
