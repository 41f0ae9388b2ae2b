"""Trails on disk: exporting them without loss, and checking what was exported."""

from keyleash.audit.export.archive import Archive, locked_archive
from keyleash.audit.export.rows import FileFormat, read_rows
from keyleash.audit.export.run import Archiver, Exported, recorded_by_server
from keyleash.audit.export.verify import ArchiveFinding, ArchiveReport, FindingKind, verify_archive

__all__ = [
    "Archive",
    "ArchiveFinding",
    "ArchiveReport",
    "Archiver",
    "Exported",
    "FileFormat",
    "FindingKind",
    "locked_archive",
    "read_rows",
    "recorded_by_server",
    "verify_archive",
]
