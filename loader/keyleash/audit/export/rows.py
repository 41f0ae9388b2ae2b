"""Rows of an archive, as JSON Lines or Parquet."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from keyleash.audit.entries import audit_events, number_of
from keyleash.errors import OperationError
from keyleash.store.identities import known_identities
from keyleash.store.keyspace import OPERATORS, Keyspace
from keyleash.store.records import Client
from keyleash.text import json_bytes


class StreamKind(StrEnum):
    """What is in a trail, as docs/reference/audit-events.md has it."""

    AUDIT = "audit"
    DENIED = "denied"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class ExportedStream:
    """A stream to export.

    Attributes:
        identity: The identity, `@operators`, or empty for the control stream.
        key: The stream's key.
    """

    kind: StreamKind
    identity: str
    key: str

    @property
    def name(self) -> str:
        """Return its folder in an archive: `audit/agent-runner`, `control`."""
        return f"{self.kind}/{self.identity}" if self.identity else str(self.kind)


def find_streams(
    client: Client, keyspace: Keyspace, identities: Iterable[str]
) -> list[ExportedStream]:
    """
    Return the streams to export; they need not exist yet.

    Args:
        client: An operator's client.
        keyspace: Where the control keys are.
        identities: The identities; none for the control stream, which comes first, the operators,
            and every identity that was ever active.
    """
    if wanted := sorted(identities):
        return [stream for name in wanted for stream in _streams_of(keyspace, name)]
    return [
        ExportedStream(StreamKind.CONTROL, "", keyspace.control),
        ExportedStream(StreamKind.AUDIT, OPERATORS, keyspace.audit(OPERATORS)),
        *(
            stream
            for name in known_identities(client, keyspace)
            for stream in _streams_of(keyspace, name)
        ),
    ]


def _streams_of(keyspace: Keyspace, identity: str) -> tuple[ExportedStream, ExportedStream]:
    return (
        ExportedStream(StreamKind.AUDIT, identity, keyspace.audit(identity)),
        ExportedStream(StreamKind.DENIED, identity, keyspace.denied(identity)),
    )


@dataclass(frozen=True, slots=True)
class ArchiveRow:
    """
    An entry with all its fields, in their order; names may repeat.

    Attributes:
        id: `<milliseconds>-<number>`.
    """

    id: str
    fields: tuple[tuple[bytes, bytes], ...]

    @property
    def seq(self) -> int:
        """Return its sequence number; 0 if it has none."""
        return number_of(self.field(b"seq"))

    @property
    def time(self) -> datetime | None:
        """Return its server time in UTC; None if its id was not generated and is out of range."""
        seconds, ms = divmod(id_order(self.id)[0], 1000)
        try:
            return datetime.fromtimestamp(seconds, UTC).replace(microsecond=ms * 1000)
        except (ValueError, OverflowError, OSError):
            return None

    @property
    def size(self) -> int:
        """Return the size of its fields in bytes."""
        return sum(len(name) + len(value) for name, value in self.fields)

    def field(self, name: bytes) -> bytes:
        """Return the first field of that name; empty if there is none."""
        return next((value for item, value in self.fields if item == name), b"")

    def commands(self, stream: ExportedStream) -> list[tuple[str, tuple[bytes, ...]]]:
        """Return the commands of an entry of an audit stream, each with its keys."""
        if stream.kind is not StreamKind.AUDIT or self.field(b"of"):
            return []
        try:
            events = audit_events(stream.identity, self.id.encode(), self.fields)
        except ValueError:
            # Not written by a guard. Its fields are archived all the same.
            return []
        return [(event.op, event.keys) for event in events]


def id_order(entry_id: str) -> tuple[int, int]:
    """Return the sort key of an id: `9-0` comes before `10-0`."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


class BreakKind(StrEnum):
    """The kind of a break in the sequence numbers."""

    BEGINS = "begins"
    """The stream was trimmed before its first export."""
    GAP = "gap"
    """Numbers are missing."""
    RESTARTED = "anew"
    """Restarted at 1: the identity's state was lost, or expired after it left the policy."""
    BACK = "back"
    """A number repeats: the server lost acknowledged writes, or was restored."""


@dataclass(frozen=True, slots=True)
class SequenceBreak:
    """
    A break in the sequence numbers.

    Attributes:
        before: The number before it; 0 if there is none.
        seq: The number after it.
        id: The entry with that number.
    """

    kind: BreakKind
    before: int
    seq: int
    id: str

    @property
    def is_loss(self) -> bool:
        """Return whether entries are missing or repeated."""
        return self.kind in {BreakKind.GAP, BreakKind.BACK}

    def __str__(self) -> str:
        missing = f"{self.before + 1} to {self.seq - 1}"
        match self.kind:
            case BreakKind.BEGINS:
                return f"begins at seq {self.seq}: what came before was gone already"
            case BreakKind.GAP if self.seq == self.before + 2:
                return f"seq {self.before + 1} is missing, before {self.id}"
            case BreakKind.GAP:
                return f"seq {missing} are missing, before {self.id}"
            case BreakKind.RESTARTED:
                return f"seq restarts after {self.before}, at {self.id}"
            case BreakKind.BACK:
                return f"seq goes back from {self.before} to {self.seq}, at {self.id}"


class SequenceCheck:
    """Checks the numbers of one stream; *last* is the previous one, 0 at its beginning."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def follow(self, seq: int, entry_id: str) -> SequenceBreak | None:
        """Add the next entry's number, 0 if it has none; return a break, if it is one."""
        if not seq:
            return None
        before, self.last = self.last, seq
        if seq == before + 1:
            return None
        if not before:
            kind = BreakKind.BEGINS
        elif seq > before:
            kind = BreakKind.GAP
        else:
            kind = BreakKind.RESTARTED if seq == 1 else BreakKind.BACK
        return SequenceBreak(kind, before, seq, entry_id)


class Sink(Protocol):
    """A destination of bytes."""

    def write(self, data: bytes, /) -> int: ...


class JsonlWriter:
    """Writes one JSON object per line."""

    def __init__(self, sink: Sink, stream: ExportedStream) -> None:
        self._sink = sink
        self._stream = stream

    def write(self, rows: Iterable[ArchiveRow]) -> None:
        lines = [_line(row, self._stream) for row in rows]
        self._sink.write("".join(lines).encode())

    def close(self) -> None:
        """Nothing is held back."""


def read_jsonl(path: Path) -> Iterator[ArchiveRow]:
    """Read a file that `JsonlWriter` wrote.

    Raises:
        ValueError: it is not what that writes.
    """
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
                fields = tuple((_bytes(name), _bytes(value)) for name, value in record["fields"])
                yield ArchiveRow(str(record["id"]), fields)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError("a line is no entry") from error


def _line(row: ArchiveRow, stream: ExportedStream) -> str:
    record: dict[str, Any] = {
        "id": row.id,
        "time": _iso(row.time),
        "trail": str(stream.kind),
        "identity": stream.identity or None,
        "seq": row.seq or None,
        "commands": [
            {"op": op, "keys": [json_bytes(key) for key in keys]}
            for op, keys in row.commands(stream)
        ],
        "fields": [[json_bytes(name), json_bytes(value)] for name, value in row.fields],
    }
    # In ASCII, so that bytes of an agent cannot control the terminal of a reader.
    return json.dumps(record, separators=(",", ":")) + "\n"


def _iso(time: datetime | None) -> str | None:
    if time is None:
        return None
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bytes(value: str | dict[str, str]) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return base64.b64decode(value["base64"], validate=True)


_BATCH = 1000


def require_pyarrow() -> tuple[Any, Any]:
    """Import and return the libraries for Parquet.

    Raises:
        OperationError (missing-extra): they are not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise OperationError(
            "missing-extra",
            "Parquet needs pyarrow, which is not installed",
            help="install it with `pip install 'keyleash[parquet]'`",
        ) from None
    return pyarrow, pyarrow.parquet


class ParquetWriter:
    """Writes a row group for each page of entries."""

    def __init__(self, sink: Sink, stream: ExportedStream) -> None:
        arrow, parquet = require_pyarrow()
        self._arrow = arrow
        self._stream = stream
        self._schema = _schema(arrow)
        self._writer = parquet.ParquetWriter(_Stream(sink), self._schema, compression="zstd")

    def write(self, rows: Iterable[ArchiveRow]) -> None:
        made = [_record(row, self._stream) for row in rows]
        self._writer.write_table(self._arrow.Table.from_pylist(made, self._schema))

    def close(self) -> None:
        self._writer.close()


def read_parquet(path: Path) -> Iterator[ArchiveRow]:
    """Read a file that `ParquetWriter` wrote.

    Raises:
        ValueError: it is not what that writes.
        OperationError (missing-extra): pyarrow is not installed.
    """
    _, parquet = require_pyarrow()
    with path.open("rb") as file:
        for batch in parquet.ParquetFile(file).iter_batches(_BATCH, columns=["id", "fields"]):
            for record in batch.to_pylist():
                yield ArchiveRow(
                    record["id"], tuple((item["name"], item["value"]) for item in record["fields"])
                )


class _Stream(io.RawIOBase):
    """A file for pyarrow that writes to a sink; closing it closes nothing."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        count = self._sink.write(bytes(data))
        self._at += count
        return count

    def tell(self) -> int:
        return self._at


def _schema(arrow: Any) -> Any:
    command = arrow.struct([("op", arrow.string()), ("keys", arrow.list_(arrow.binary()))])
    field = arrow.struct([("name", arrow.binary()), ("value", arrow.binary())])
    return arrow.schema(
        [
            ("id", arrow.string()),
            ("time", arrow.timestamp("ms", tz="UTC")),
            ("trail", arrow.string()),
            ("identity", arrow.string()),
            ("seq", arrow.int64()),
            ("commands", arrow.list_(command)),
            ("fields", arrow.list_(field)),
        ]
    )


def _record(row: ArchiveRow, stream: ExportedStream) -> dict[str, Any]:
    return {
        "id": row.id,
        "time": row.time,
        "trail": str(stream.kind),
        "identity": stream.identity or None,
        "seq": row.seq or None,
        "commands": [{"op": op, "keys": list(keys)} for op, keys in row.commands(stream)],
        "fields": [{"name": name, "value": value} for name, value in row.fields],
    }


class FileFormat(StrEnum):
    """A file format."""

    JSONL = "jsonl"
    PARQUET = "parquet"


class RowWriter(Protocol):
    """Writes rows to a sink, page by page."""

    def write(self, rows: Iterable[ArchiveRow]) -> None: ...

    def close(self) -> None: ...


def require_format(file_format: FileFormat) -> None:
    """Check that *file_format* can be written.

    Raises:
        OperationError (missing-extra): its library is not installed.
    """
    if file_format is FileFormat.PARQUET:
        require_pyarrow()


def row_writer(file_format: FileFormat, sink: Sink, stream: ExportedStream) -> RowWriter:
    """Return a writer of that format."""
    match file_format:
        case FileFormat.JSONL:
            return JsonlWriter(sink, stream)
        case FileFormat.PARQUET:
            return ParquetWriter(sink, stream)


def read_rows(path: Path) -> Iterator[ArchiveRow]:
    """Yield the rows of a file; its suffix gives the format.

    Raises:
        ValueError: the file is not of that format.
        OSError: it cannot be read.
        OperationError (missing-extra): the format's library is not installed.
    """
    read = {FileFormat.JSONL: read_jsonl, FileFormat.PARQUET: read_parquet}
    return read[FileFormat(path.suffix[1:])](path)
