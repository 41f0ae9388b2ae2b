"""Archives of audit streams on disk: export without loss, and verification."""

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
