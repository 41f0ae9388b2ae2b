"""The formats of archived files, by the end of their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from keyleash.audit.export.jsonl import JsonlWriter, Sink, read_jsonl
from keyleash.audit.export.parquet import ParquetWriter, read_parquet, require_pyarrow
from keyleash.audit.export.row import Row
from keyleash.audit.export.trail import Trail


class FileFormat(StrEnum):
    """How rows are written."""

    JSONL = "jsonl"
    PARQUET = "parquet"


class RowWriter(Protocol):
    """Writes rows to a sink, page by page."""

    def write(self, rows: Iterable[Row]) -> None: ...

    def close(self) -> None: ...


def require_format(file_format: FileFormat) -> None:
    """See to it that *file_format* can be written.

    Raises:
        MissingExtraError: its library is not installed.
    """
    if file_format is FileFormat.PARQUET:
        require_pyarrow()


def row_writer(file_format: FileFormat, sink: Sink, trail: Trail) -> RowWriter:
    """A writer of that format."""
    match file_format:
        case FileFormat.JSONL:
            return JsonlWriter(sink, trail)
        case FileFormat.PARQUET:
            return ParquetWriter(sink, trail)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, by the end of its name.

    Raises:
        ValueError: it is not what a writer of that format writes.
        OSError: it cannot be read.
        MissingExtraError: the format's library is not installed.
    """
    read = {FileFormat.JSONL: read_jsonl, FileFormat.PARQUET: read_parquet}
    return read[FileFormat(path.suffix[1:])](path)
