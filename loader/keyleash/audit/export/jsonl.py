"""Rows as lines of JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from keyleash.audit.export.row import Row
from keyleash.audit.export.trail import Trail


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> int: ...


class JsonlWriter:
    """Writes an object a line."""

    def __init__(self, sink: Sink, trail: Trail) -> None:
        self._sink = sink
        self._trail = trail

    def write(self, rows: Iterable[Row]) -> None:
        lines = [_line(row, self._trail) for row in rows]
        self._sink.write("".join(lines).encode())

    def close(self) -> None:
        """Nothing is held back."""


def read_jsonl(path: Path) -> Iterator[Row]:
    """Read a file that `JsonlWriter` wrote.

    Raises:
        ValueError: it is not what that writes.
    """
    with path.open("rb") as file:
        for line in file:
            try:
                said = json.loads(line)
                fields = tuple((_bytes(name), _bytes(value)) for name, value in said["fields"])
                yield Row(str(said["id"]), fields)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError("a line is no entry") from error


def _line(row: Row, trail: Trail) -> str:
    said: dict[str, Any] = {
        "id": row.id,
        "time": _iso(row.time),
        "trail": str(trail.kind),
        "identity": trail.identity or None,
        "seq": row.seq or None,
        "commands": [
            {"op": op, "keys": [_json(key) for key in keys]} for op, keys in row.commands(trail)
        ],
        "fields": [[_json(name), _json(value)] for name, value in row.fields],
    }
    # In ASCII: no byte of an agent moves the cursor of whoever looks at the file.
    return json.dumps(said, separators=(",", ":")) + "\n"


def _iso(time: datetime | None) -> str | None:
    if time is None:
        return None
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: bytes) -> str | dict[str, str]:
    """A string if *value* is UTF-8, else its base64: either way its bytes can be had back."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _bytes(value: str | dict[str, str]) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return base64.b64decode(value["base64"], validate=True)
