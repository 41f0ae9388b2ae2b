"""Rows as Parquet, for whom has the extra `keyleash[parquet]`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from keyleash.audit.export.jsonl import Sink
from keyleash.audit.export.row import Row
from keyleash.audit.export.trail import Trail
from keyleash.errors import MissingExtraError

_BATCH = 1000


def require_pyarrow() -> tuple[Any, Any]:
    """The libraries, which are imported only when Parquet is asked for.

    Raises:
        MissingExtraError: they are not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError(
            "Parquet needs pyarrow, which is not installed",
            help="install it with `pip install 'keyleash[parquet]'`",
        ) from None
    return pyarrow, pyarrow.parquet


class ParquetWriter:
    """Writes a row group for each page of entries."""

    def __init__(self, sink: Sink, trail: Trail) -> None:
        arrow, parquet = require_pyarrow()
        self._arrow = arrow
        self._trail = trail
        self._schema = _schema(arrow)
        self._writer = parquet.ParquetWriter(_Stream(sink), self._schema, compression="zstd")

    def write(self, rows: Iterable[Row]) -> None:
        made = [_record(row, self._trail) for row in rows]
        self._writer.write_table(self._arrow.Table.from_pylist(made, self._schema))

    def close(self) -> None:
        self._writer.close()


def read_parquet(path: Path) -> Iterator[Row]:
    """Read a file that `ParquetWriter` wrote.

    Raises:
        ValueError: it is not what that writes.
        MissingExtraError: pyarrow is not installed.
    """
    _, parquet = require_pyarrow()
    with path.open("rb") as file:
        for batch in parquet.ParquetFile(file).iter_batches(_BATCH, columns=["id", "fields"]):
            for said in batch.to_pylist():
                yield Row(said["id"], tuple((one["name"], one["value"]) for one in said["fields"]))


class _Stream(io.RawIOBase):
    """What pyarrow takes for a file; closing it closes nothing."""

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


def _record(row: Row, trail: Trail) -> dict[str, Any]:
    return {
        "id": row.id,
        "time": row.time,
        "trail": str(trail.kind),
        "identity": trail.identity or None,
        "seq": row.seq or None,
        "commands": [{"op": op, "keys": list(keys)} for op, keys in row.commands(trail)],
        "fields": [{"name": name, "value": value} for name, value in row.fields],
    }
