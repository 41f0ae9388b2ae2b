"""One trail's folder: what it has, what a crash left in it, and its next file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from keyleash.audit.export.archive import Archive
from keyleash.audit.export.files import DRAFT, Draft, file_sha256, make_folder
from keyleash.audit.export.formats import FileFormat, read_rows, row_writer
from keyleash.audit.export.manifest import (
    ArchivedFile,
    Head,
    add_file,
    next_chain,
    read_manifest,
)
from keyleash.audit.export.row import Row, id_order
from keyleash.audit.export.trail import Trail
from keyleash.errors import ArchiveError

FILE_NAME = re.compile(r"(\d{8,})_(\d+-\d+)\.(jsonl|parquet)")


class Summary:
    """What a manifest says of rows, taken row by row."""

    def __init__(self) -> None:
        self.first = self.last = ""
        self.count = self.first_seq = self.last_seq = 0

    def add(self, row: Row) -> None:
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


class TrailFolder:
    """
    A folder that an archiver writes to.

    Raises:
        ArchiveError: it is not as its manifest and the archive's marks have it.
    """

    def __init__(self, archive: Archive, trail: Trail) -> None:
        self.path = archive.directory / trail.name
        self._trail = trail
        self._manifest = read_manifest(self.path, trail.name)
        if self.path.is_dir():
            self._tidy()
        mark = archive.marks.get(trail.name)
        if mark is not None and mark.files > self.head.files:
            raise ArchiveError(
                f"`{self.path}` has {self.head.files} files, of which {mark.files} were recorded",
                help="bring the folder back from a backup, with its manifest",
            )

    @property
    def head(self) -> Head:
        """How the folder ends."""
        return self._manifest.head

    def write(self, pages: Iterable[list[Row]], file_format: FileFormat) -> ArchivedFile:
        """
        Write the next file, and list it.

        Raises:
            OSError: the disk is full or the like; then there is no such file.
        """
        make_folder(self.path)
        summary = Summary()
        with Draft(self.path) as draft:
            writer = row_writer(file_format, draft, self._trail)
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
                if read_manifest(self.path, self._trail.name).head == self.head:
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
