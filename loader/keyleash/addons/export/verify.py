"""Verify the lines of an archive and their chains."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from keyleash.addons.export.archive import (
    ARCHIVE,
    CURSOR,
    DRAFT,
    LOCK,
    Archive,
    Cursor,
    day_files,
    read_archive,
    read_cursor,
)
from keyleash.addons.export.rows import (
    ArchiveRow,
    SequenceCheck,
    bounded_lines,
    digest_of,
    read_row,
)
from keyleash.audit.streams import id_order
from keyleash.errors import OperationError
from keyleash.results import Result
from keyleash.store.exports import BEFORE_ALL, NO_CHAIN, ExportRecord
from keyleash.store.streams import StreamKind
from keyleash.text import json_object


class FindingKind(StrEnum):
    """The kind of a finding."""

    CHANGED = "changed"
    """A line or a cursor was changed."""
    MISSING = "missing"
    """Lines, a file, a folder or a cursor are missing."""
    EXTRA = "extra"
    """A file was not written by an archiver."""
    GAP = "gap"
    """Sequence numbers are missing or repeated."""


@dataclass(frozen=True, slots=True)
class ArchiveFinding:
    """A failed check.

    Attributes:
        stream: The folder; empty for the archive itself.
        file: The file's name; empty if it concerns none.
        missing: For a gap, the first and the last missing number.
    """

    kind: FindingKind
    stream: str
    file: str
    message: str
    missing: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for JSON, with null for what it does not concern."""
        return {name: value or None for name, value in json_object(self).items()}


@dataclass(frozen=True, slots=True)
class StreamReport:
    """The result for one folder.

    Attributes:
        chain: Digest of its last line, for comparison with a digest stored elsewhere.
        notes: Remarks that are not failures.
    """

    stream: str
    files: int
    entries: int
    first: str
    last: str
    chain: str
    findings: tuple[ArchiveFinding, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON; its findings are those of the whole report."""
        return {
            **json_object(self, "stream", "files", "entries", "chain", "notes"),
            "first": self.first or None,
            "last": self.last or None,
        }


@dataclass(frozen=True, slots=True)
class ArchiveReport(Result):
    """The result for an archive."""

    archive: str
    streams: tuple[StreamReport, ...]
    findings: tuple[ArchiveFinding, ...]

    @property
    def is_valid(self) -> bool:
        """Return whether there are no findings."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        return json_object(self, "archive", "valid=is_valid", "streams", "findings")


def verify_archive(
    directory: Path, recorded: Mapping[str, ExportRecord] | None = None
) -> ArchiveReport:
    """Check every line of an archive, also while it is being written.

    *recorded* has the server's record of each stream, read before the archive.
    """
    archive = read_archive(directory)
    extra = [
        ArchiveFinding(FindingKind.EXTRA, "", name, "is not a file of keyleash")
        for name in _extra_names(directory)
    ]
    names = {*_folders(directory), *archive.streams}
    records: dict[str, ExportRecord | None] = {}
    if recorded is not None:
        ours = {name: item for name, item in recorded.items() if item.archive == archive.id}
        records = dict.fromkeys(names) | ours
        names.update(name for name, item in ours.items() if item.id != BEFORE_ALL)
    streams = tuple(
        _Check(archive, name, records.get(name, archive.empty_record)).report()
        for name in sorted(names)
    )
    findings = (*extra, *(finding for stream in streams for finding in stream.findings))
    return ArchiveReport(archive.id, streams, findings)


@dataclass(slots=True)
class _Check:
    """The check of one folder, whose lines are read in order."""

    _archive: Archive
    _stream: str
    _record: ExportRecord | None
    _findings: list[ArchiveFinding] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)
    _sequence: SequenceCheck = field(default_factory=SequenceCheck)
    _changed: set[str] = field(default_factory=set)
    _entries: int = 0
    _first: str = ""
    _last: str = BEFORE_ALL
    _chain: str = NO_CHAIN
    _is_recorded: bool = False

    def report(self) -> StreamReport:
        folder = self._archive.directory / self._stream
        files = [(path, sys.maxsize) for path in day_files(folder)]
        try:
            cursor = read_cursor(self._archive, self._stream)
            files = cursor.files(self._archive.directory)
        except OperationError as error:
            is_there = (folder / CURSOR).exists()
            kind = FindingKind.CHANGED if is_there else FindingKind.MISSING
            self._find(kind, CURSOR, error.message)
            cursor = None
        for path, end in files:
            self._check_file(path, end)
        if cursor is not None:
            self._check_end(cursor, folder)
        self._check_record()
        self._check_extra(folder)
        return StreamReport(
            stream=self._stream,
            files=len(files),
            entries=self._entries,
            first=self._first,
            last=self._last if self._entries else "",
            chain=self._chain,
            findings=tuple(self._findings),
            notes=tuple(self._notes),
        )

    def _check_file(self, path: Path, end: int) -> None:
        number = 0
        try:
            for number, line in enumerate(bounded_lines(path, end), 1):
                self._check_line(path.name, number, line)
        except OSError as error:
            self._change(path.name, f"cannot be read: {error}")
        else:
            if not number:
                self._find(FindingKind.EXTRA, path.name, "has no line")

    def _check_line(self, file: str, number: int, line: bytes) -> None:
        before, self._chain = self._chain, digest_of(line)
        try:
            row = read_row(line)
        except ValueError:
            self._change(file, f"line {number} is not an entry")
            return
        if row.chain != before and number == 1:
            message = "does not follow the line before it: lines are missing or were changed"
            self._find(FindingKind.MISSING, file, message)
        elif row.chain != before:
            self._change(file, f"line {number - 1} was changed, or lines after it are missing")
        elif id_order(row.id) <= id_order(self._last):
            self._change(file, f"line {number} is not after {self._last}")
        elif row.file != file:
            self._change(file, f"line {number} is of another day")
        if self._record is not None and row.id == self._record.id:
            self._is_recorded = True
            if self._chain != self._record.chain:
                self._change(file, f"line {number} is not the one that the server recorded")
        self._entries += 1
        self._first, self._last = self._first or row.id, row.id
        self._check_number(file, row)

    def _check_number(self, file: str, row: ArchiveRow) -> None:
        found = self._sequence.follow(row.seq, row.id)
        if found is None:
            return
        if found.is_loss:
            missing = (found.before + 1, found.seq - 1) if found.seq > found.before else None
            self._find(FindingKind.GAP, file, str(found), missing)
        else:
            self._notes.append(str(found))

    def _check_end(self, cursor: Cursor, folder: Path) -> None:
        if self._last != cursor.id:
            message = f"the last entry by the cursor, {cursor.id}, is missing"
            self._find(FindingKind.MISSING, cursor.file, message)
        elif self._chain != cursor.chain:
            self._change(cursor.file, "its last line is not that of the cursor")
        elif not self._findings and self._entries != cursor.count:
            self._change(CURSOR, f"has {cursor.count} entries, and the files have {self._entries}")
        for path in day_files(folder, cursor.file):
            if path.name != cursor.file or path.lstat().st_size > cursor.offset:
                self._notes.append(
                    f"`{path.name}` has lines after the cursor, which were not checked: they are"
                    " being written, or a crash left them and the next export writes them again"
                )

    def _check_record(self) -> None:
        if self._record is None:
            self._find(FindingKind.MISSING, "", "the server has no record of its export")
        elif self._record.id != BEFORE_ALL and not self._is_recorded:
            message = f"the entry {self._record.id} is missing, which the server recorded"
            self._find(FindingKind.MISSING, "", message)

    def _check_extra(self, folder: Path) -> None:
        expected = {CURSOR, DRAFT, *(path.name for path in day_files(folder))}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name not in expected:
                self._find(FindingKind.EXTRA, path.name, "is not a file of keyleash")

    def _change(self, file: str, message: str) -> None:
        """Report a change, one for each file."""
        if file not in self._changed:
            self._changed.add(file)
            self._find(FindingKind.CHANGED, file, message)

    def _find(
        self, kind: FindingKind, file: str, message: str, missing: tuple[int, int] | None = None
    ) -> None:
        self._findings.append(ArchiveFinding(kind, self._stream, file, message, missing))


def _folders(directory: Path) -> Iterator[str]:
    if (directory / StreamKind.CONTROL).is_dir():
        yield str(StreamKind.CONTROL)
    for kind in (StreamKind.AUDIT, StreamKind.DENIED):
        yield from (f"{kind}/{path.name}" for path in directory.glob(f"{kind}/*/"))


def _extra_names(directory: Path) -> Iterator[str]:
    for path in sorted(directory.iterdir()):
        if path.name not in {ARCHIVE, LOCK, DRAFT, *StreamKind}:
            yield path.name
        elif path.name in {StreamKind.AUDIT, StreamKind.DENIED}:
            yield from (f"{path.name}/{item.name}" for item in path.iterdir() if not item.is_dir())
