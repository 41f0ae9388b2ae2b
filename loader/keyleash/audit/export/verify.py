"""Verify the files and hash chains of an archive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from keyleash.audit.export.archive import (
    ARCHIVE,
    DRAFT,
    FILE_NAME,
    LOCK,
    MANIFEST,
    NO_CHAIN,
    ArchivedFile,
    Extent,
    Manifest,
    closed_name,
    file_prefix,
    file_sha256,
    is_being_written,
    next_chain,
    read_archive,
    read_manifest,
)
from keyleash.audit.export.rows import SequenceCheck, read_rows
from keyleash.audit.streams import id_order
from keyleash.errors import OperationError
from keyleash.results import Result
from keyleash.store.streams import StreamKind
from keyleash.text import json_object


class FindingKind(StrEnum):
    """The kind of a finding."""

    CHANGED = "changed"
    """A file, a manifest or a chain was changed."""
    MISSING = "missing"
    """A file, a folder or its end is missing."""
    EXTRA = "extra"
    """A file is in no manifest."""
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
        entries: Number of entries by its manifests.
        chain: Chain of its last file, for comparison with a chain stored elsewhere.
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


RecordedMarks = Callable[[str], Iterable[tuple[str, Extent | None]]]
"""Maps an archive's id to the extents of its streams that are recorded elsewhere.

The id of an event and None stand for a record that cannot be read.
"""


def verify_archive(directory: Path, recorded: RecordedMarks | None = None) -> ArchiveReport:
    """Check every file of an archive, also while it is being written.

    *recorded* returns the recorded extents to compare with.
    """
    is_busy = is_being_written(directory)
    extra = [
        ArchiveFinding(FindingKind.EXTRA, "", name, "is not a file of keyleash")
        for name in _extra_names(directory)
    ]
    archive = read_archive(directory)
    marks: dict[str, list[Extent]] = defaultdict(list)
    for name, mark in (*archive.marks.items(), *(recorded(archive.id) if recorded else ())):
        if mark is None:
            message = f"the extents in the control event `{name}` cannot be read"
            extra.append(ArchiveFinding(FindingKind.CHANGED, "", "", message))
        else:
            marks[name].append(mark)
    names = sorted({*_folders(directory), *marks})
    streams = tuple(_Check(directory / name, name, is_busy).report(marks[name]) for name in names)
    findings = (*extra, *(finding for stream in streams for finding in stream.findings))
    return ArchiveReport(archive.id, streams, findings)


@dataclass(slots=True)
class _Check:
    _folder: Path
    _stream: str
    _is_busy: bool
    _findings: list[ArchiveFinding] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)
    _sequence: SequenceCheck = field(default_factory=SequenceCheck)

    def report(self, marks: Sequence[Extent]) -> StreamReport:
        # Before the manifest is read, which does not list files named later.
        is_there = self._folder.is_dir()
        names = sorted(path.name for path in self._folder.iterdir()) if is_there else []
        manifests = self._manifests()
        files = [file for manifest in manifests for file in manifest.files]
        self._check_files(files)
        self._check_marks(files, marks)
        self._check_extra(names, manifests)
        return StreamReport(
            stream=self._stream,
            files=len(files),
            entries=sum(file.count for file in files),
            first=files[0].first if files else "",
            last=files[-1].last if files else "",
            chain=files[-1].chain if files else NO_CHAIN,
            findings=tuple(self._findings),
            notes=tuple(self._notes),
        )

    def _manifests(self) -> list[Manifest]:
        """Return the folder's manifests in order, as far back as they link to each other."""
        found: list[Manifest] = []
        name, names = MANIFEST, set()
        while name not in names:
            names.add(name)
            try:
                manifest = read_manifest(self._folder, self._stream, name)
            except OperationError as error:
                self._changed(name, error.message)
                return found
            if found and manifest.end != found[0].before:
                self._changed(name, "does not end where the next one continues")
            found.insert(0, manifest)
            if not manifest.before.files:
                break
            if not manifest.files:
                self._changed(name, "lists no file, but continues another manifest")
                break
            name = closed_name(manifest.before)
        return found

    def _check_files(self, files: list[ArchivedFile]) -> None:
        chain, last = NO_CHAIN, ""
        for number, file in enumerate(files, 1):
            if file.chain != next_chain(chain, file.sha256):
                self._changed(file.name, "its chain does not follow the file before it")
            if not file.name.startswith(f"{file_prefix(number, file.first)}."):
                self._changed(file.name, f"is listed as file {number}")
            if last and id_order(file.first) <= id_order(last):
                self._changed(file.name, f"begins at {file.first}, not after {last}")
            self._check_content(file)
            chain, last = file.chain, file.last

    def _check_content(self, file: ArchivedFile) -> None:
        path = self._folder / file.name
        try:
            if not FILE_NAME.fullmatch(file.name):
                raise ValueError("its name is not that of an archived file")  # noqa: TRY301
            sha256 = file_sha256(path)
            if sha256 != file.sha256:
                self._changed(file.name, f"its SHA-256 is {sha256}, and was {file.sha256}")
                self._sequence.last = file.last_seq or self._sequence.last
                return
            found = ArchivedFile()
            for row in read_rows(path):
                found.add(row)
                self._check_number(file, row.seq, row.id)
        except FileNotFoundError:
            message = f"{file.count} entries, up to {file.last}, are missing"
            self._find(FindingKind.MISSING, file.name, message)
            self._sequence.last = file.last_seq or self._sequence.last
        except (ValueError, OSError) as error:
            self._changed(file.name, f"cannot be read: {error}")
        else:
            for name in ("first", "last", "count", "first_seq", "last_seq"):
                listed, present = getattr(file, name), getattr(found, name)
                if listed != present:
                    self._changed(file.name, f"`{name}` is {present}, but {listed} in the manifest")

    def _check_number(self, file: ArchivedFile, seq: int, entry_id: str) -> None:
        found = self._sequence.follow(seq, entry_id)
        if found is None:
            return
        if found.is_loss:
            missing = (found.before + 1, found.seq - 1) if found.seq > found.before else None
            self._find(FindingKind.GAP, file.name, str(found), missing)
        else:
            self._notes.append(str(found))

    def _check_marks(self, files: list[ArchivedFile], marks: Sequence[Extent]) -> None:
        """Compare with the recorded extents; report the first difference only."""
        for mark in sorted(marks, key=lambda mark: mark.files):
            if len(files) < mark.files:
                message = f"{len(files)} files are listed, but {mark.files} were recorded"
                return self._find(FindingKind.MISSING, "", f"{message}, up to {mark.last}")
            if mark.files and files[mark.files - 1].chain != mark.chain:
                name = files[mark.files - 1].name
                return self._changed(name, "its chain is not the recorded chain")
        return None

    def _check_extra(self, names: list[str], manifests: list[Manifest]) -> None:
        end = manifests[-1].end if manifests else None
        listed = {MANIFEST, *(closed_name(manifest.before) for manifest in manifests)}
        listed |= {file.name for manifest in manifests for file in manifest.files}
        if end is not None and manifests[-1].is_full:
            # A crash may leave a closed manifest without its successor.
            listed.add(closed_name(end))
        for name in names:
            if name == DRAFT and not self._is_busy:
                self._notes.append(f"`{name}` was left by a crash; the next export removes it")
            if name == DRAFT or name in listed:
                continue
            is_next = end is not None and name.startswith(file_prefix(end.files + 1))
            if not (is_next and self._is_busy):
                hint = "; if it was left by a crash, the next export lists it" if is_next else ""
                self._find(FindingKind.EXTRA, name, f"is in no manifest{hint}")

    def _changed(self, file: str, message: str) -> None:
        self._find(FindingKind.CHANGED, file, message)

    def _find(
        self, kind: FindingKind, file: str, message: str, missing: tuple[int, int] | None = None
    ) -> None:
        self._findings.append(ArchiveFinding(kind, self._stream, file, message, missing))


def _folders(directory: Path) -> Iterator[str]:
    if (directory / StreamKind.CONTROL).is_dir():
        yield StreamKind.CONTROL
    for kind in (StreamKind.AUDIT, StreamKind.DENIED):
        yield from (f"{kind}/{path.name}" for path in directory.glob(f"{kind}/*/"))


def _extra_names(directory: Path) -> Iterator[str]:
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        if path.name not in {ARCHIVE, LOCK, DRAFT, *StreamKind}:
            yield path.name
        elif path.name in {StreamKind.AUDIT, StreamKind.DENIED}:
            yield from (f"{path.name}/{item.name}" for item in path.iterdir() if not item.is_dir())
