"""What there is to say of an archive that was checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """What is wrong."""

    CHANGED = "changed"
    """A file, a manifest or a chain is not what was written."""
    MISSING = "missing"
    """A file, a folder or the end of one is not there."""
    EXTRA = "extra"
    """Something is there that no manifest lists."""
    GAP = "gap"
    """Sequence numbers are missing, or were there before."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that is wrong.

    Attributes:
        trail: The folder; empty for the archive's own.
        file: The file's name; empty if it is about none.
        missing: For a gap, the first and the last number that is missing.
    """

    kind: FindingKind
    trail: str
    file: str
    message: str
    missing: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class TrailReport:
    """
    What one folder is like.

    Attributes:
        entries: By its manifests.
        chain: Of its last file: to be compared with what was written down elsewhere.
        notes: What is as it may be, and worth to be known.
    """

    trail: str
    files: int
    entries: int
    first: str
    last: str
    chain: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What an archive is like."""

    archive: str
    trails: tuple[TrailReport, ...]
    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings
