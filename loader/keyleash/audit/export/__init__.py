"""Trails on disk: exporting them without loss, and checking what was exported."""

from keyleash.audit.export.archive import Archive, locked_archive
from keyleash.audit.export.archiver import Archiver, Exported
from keyleash.audit.export.formats import FileFormat, read_rows
from keyleash.audit.export.recorded import recorded_by_server
from keyleash.audit.export.report import Finding, FindingKind, Report
from keyleash.audit.export.verify import verify_archive

__all__ = [
    "Archive",
    "Archiver",
    "Exported",
    "FileFormat",
    "Finding",
    "FindingKind",
    "Report",
    "locked_archive",
    "read_rows",
    "recorded_by_server",
    "verify_archive",
]
