"""Archives of audit streams on disk: export without loss, and verification."""

from keyleash.audit.export.archive import Archive, locked_archive
from keyleash.audit.export.rows import read_rows
from keyleash.audit.export.run import (
    Archiver,
    Exported,
    ExportResult,
    export_streams,
    follow_export,
    recorded_by_server,
)
from keyleash.audit.export.verify import ArchiveFinding, ArchiveReport, FindingKind, verify_archive

__all__ = [
    "Archive",
    "ArchiveFinding",
    "ArchiveReport",
    "Archiver",
    "ExportResult",
    "Exported",
    "FindingKind",
    "export_streams",
    "follow_export",
    "locked_archive",
    "read_rows",
    "recorded_by_server",
    "verify_archive",
]
