"""Verify the files and hash chains of an archive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from keyleash.audit.export.archive import (
    ARCHIVE,
    CLOSED_MANIFEST,
    DRAFT,
    FILE_NAME,
    LOCK,
    MANIFEST,
    NO_CHAIN,
    ArchivedFile,
    Manifest,
    Mark,
    Summary,
    file_sha256,
    is_being_written,
    next_chain,
    read_archive,
    read_manifest,
)
from keyleash.audit.export.rows import ArchiveRow, SequenceCheck, StreamKind, id_order, read_rows
from keyleash.errors import ArchiveError


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
    """
    A failed check.

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


@dataclass(frozen=True, slots=True)
class StreamReport:
    """
    The result for one folder.

    Attributes:
        entries: Number of entries by its manifests.
        chain: Chain of its last file, for comparison with one stored elsewhere.
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


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """The result for an archive."""

    archive: str
    streams: tuple[StreamReport, ...]
    findings: tuple[ArchiveFinding, ...]

    @property
    def is_valid(self) -> bool:
        """Return whether there are no findings."""
        return not self.findings


RecordedMarks = Callable[[str], Iterable[tuple[str, Mark]]]
"""Maps an archive's id to the extent of its streams that is recorded elsewhere."""


def verify_archive(directory: Path, recorded: RecordedMarks | None = None) -> ArchiveReport:
    """
    Check every file of an archive, also while it is being written.

    Args:
        directory: The archive.
        recorded: Returns the recorded chains to compare with.

    Raises:
        ArchiveError (archive): *directory* is none.
        OperationError (missing-extra): it has Parquet files, and pyarrow is not installed.
    """
    busy = is_being_written(directory)
    extra = [
        ArchiveFinding(FindingKind.EXTRA, "", name, "is not a file of keyleash")
        for name in _strangers(directory)
    ]
    archive = read_archive(directory)
    marks: dict[str, list[Mark]] = defaultdict(list)
    for name, mark in (*archive.marks.items(), *(recorded(archive.id) if recorded else ())):
        marks[name].append(mark)
    names = sorted({*_folders(directory), *marks})
    streams = tuple(_Check(directory, name, marks[name], busy).report() for name in names)
    findings = (*extra, *(finding for stream in streams for finding in stream.findings))
    return ArchiveReport(archive.id, streams, findings)


class _Check:
    """Checks one folder."""

    def __init__(self, directory: Path, stream: str, marks: Sequence[Mark], busy: bool) -> None:
        self._folder = directory / stream
        self._stream = stream
        self._marks = marks
        self._busy = busy
        self._findings: list[ArchiveFinding] = []
        self._notes: list[str] = []
        self._sequence = SequenceCheck()

    def report(self) -> StreamReport:
        # Before the manifest is read, which does not list files named later.
        there = (
            sorted(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []
        )
        manifests = self._manifests()
        files = [file for manifest in manifests for file in manifest.files]
        self._check_files(files)
        self._check_marks(files)
        self._check_extra(there, manifests)
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
        name = MANIFEST
        names = set()
        while name and name not in names:
            names.add(name)
            try:
                manifest = read_manifest(self._folder, self._stream, name)
            except ArchiveError as error:
                self._find(FindingKind.CHANGED, name, error.message)
                return found
            if found and manifest.head != found[0].before:
                self._find(FindingKind.CHANGED, name, "does not end where the next one continues")
            found.insert(0, manifest)
            before = manifest.before
            leads_back = CLOSED_MANIFEST.fullmatch(before.manifest) and manifest.files
            name = before.manifest if leads_back else ""
            if before.manifest and not leads_back:
                self._find(
                    FindingKind.CHANGED, MANIFEST, "does not name the manifest that it continues"
                )
        return found

    def _check_files(self, files: list[ArchivedFile]) -> None:
        chain, last = NO_CHAIN, ""
        for number, file in enumerate(files, 1):
            if file.chain != next_chain(chain, file.sha256):
                self._find(
                    FindingKind.CHANGED, file.name, "its chain does not follow the file before it"
                )
            if not file.name.startswith(f"{number:08}_{file.first}."):
                self._find(FindingKind.CHANGED, file.name, f"is listed as file {number}")
            if last and id_order(file.first) <= id_order(last):
                self._find(
                    FindingKind.CHANGED, file.name, f"begins at {file.first}, not after {last}"
                )
            self._check_content(file)
            chain, last = file.chain, file.last

    def _check_content(self, file: ArchivedFile) -> None:
        path = self._folder / file.name
        try:
            if not FILE_NAME.fullmatch(file.name):
                raise ValueError("its name is not that of an archived file")  # noqa: TRY301
            sha256 = file_sha256(path)
            if sha256 != file.sha256:
                self._find(
                    FindingKind.CHANGED,
                    file.name,
                    f"its SHA-256 is {sha256}, and was {file.sha256}",
                )
                self._sequence.last = file.last_seq or self._sequence.last
                return
            summary = Summary()
            for row in read_rows(path):
                summary.add(row)
                self._follow(file, row)
        except FileNotFoundError:
            self._find(
                FindingKind.MISSING, file.name, f"{file.count} entries, up to {file.last}, are gone"
            )
            self._sequence.last = file.last_seq or self._sequence.last
        except (ValueError, OSError) as error:
            self._find(FindingKind.CHANGED, file.name, f"cannot be read: {error}")
        else:
            self._compare(file, summary)

    def _compare(self, file: ArchivedFile, summary: Summary) -> None:
        found = summary.file(file.name, file.bytes, file.sha256, "")
        if replace(found, chain=file.chain) == file:
            return
        for what in ("first", "last", "count", "first_seq", "last_seq"):
            said, is_ = getattr(file, what), getattr(found, what)
            if said != is_:
                self._find(
                    FindingKind.CHANGED,
                    file.name,
                    f"`{what}` is {is_}, and the manifest says {said}",
                )

    def _follow(self, file: ArchivedFile, row: ArchiveRow) -> None:
        found = self._sequence.follow(row.seq, row.id)
        if found is None:
            return
        if found.is_loss:
            missing = (found.before + 1, found.seq - 1) if found.seq > found.before else None
            self._find(FindingKind.GAP, file.name, str(found), missing)
        else:
            self._notes.append(str(found))

    def _check_marks(self, files: list[ArchivedFile]) -> None:
        """Compare with the recorded marks; report the first difference only."""
        for mark in sorted(self._marks, key=lambda mark: mark.files):
            if not mark.files:
                continue
            if len(files) < mark.files:
                said = f"{len(files)} files are listed, and {mark.files} were recorded"
                return self._find(FindingKind.MISSING, "", f"{said}, up to {mark.last}")
            file = files[mark.files - 1]
            if file.chain != mark.chain:
                said = "its chain is not the one that was recorded"
                return self._find(FindingKind.CHANGED, file.name, said)
        return None

    def _check_extra(self, there: list[str], manifests: list[Manifest]) -> None:
        listed = {MANIFEST, *(manifest.before.manifest for manifest in manifests)}
        listed |= {file.name for manifest in manifests for file in manifest.files}
        head = manifests[-1].head if manifests else None
        if head is not None and manifests[-1].is_full:
            # A crash may leave a closed manifest without its successor.
            listed.add(head.manifest)
        for name in there:
            if name in listed or (self._busy and name == DRAFT):
                continue
            if name == DRAFT:
                self._notes.append(f"`{name}` was left by a crash; the next export removes it")
                continue
            is_next = head is not None and name.startswith(f"{head.files + 1:08}_")
            if not (is_next and self._busy):
                self._find(
                    FindingKind.EXTRA,
                    name,
                    "is in no manifest"
                    + ("; if it was left by a crash, the next export lists it" if is_next else ""),
                )

    def _find(
        self,
        kind: FindingKind,
        file: str,
        message: str,
        missing: tuple[int, int] | None = None,
    ) -> None:
        self._findings.append(ArchiveFinding(kind, self._stream, file, message, missing))


def _folders(directory: Path) -> Iterator[str]:
    for kind in StreamKind:
        folder = directory / kind
        if kind is StreamKind.CONTROL:
            yield from [str(kind)] if folder.is_dir() else []
        elif folder.is_dir():
            yield from (f"{kind}/{item.name}" for item in folder.iterdir() if item.is_dir())


def _strangers(directory: Path) -> Iterator[str]:
    ours = {ARCHIVE, LOCK, *StreamKind}
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        if path.name not in ours and path.name != DRAFT:
            yield path.name
        elif path.name in {StreamKind.AUDIT, StreamKind.DENIED}:
            yield from (f"{path.name}/{item.name}" for item in path.iterdir() if not item.is_dir())
